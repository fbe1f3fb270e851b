package org.fedsup.trainer;

import java.io.IOException;
import java.io.OutputStream;
import java.util.SortedMap;
import java.util.TreeMap;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Update that a phone sends back for {@code fedsup merge}: the change in its subnet's weights, in
 * the format of tflite/format/update_file.py.
 *
 * @param delta trained minus received weights by name
 * @param before score of the received weights on the training examples
 * @param after score of the trained weights on the same examples
 */
public record UpdateFile(SortedMap<String, float[]> delta, Score before, Score after) {
    private static final String KIND = "fedsup-tf update";
    // Space for names, shapes and metadata in addition to the tensors.
    private static final int HEADER_BYTES = 1 << 20;

    /**
     * Makes an update from a checkpoint.
     *
     * @param model the model's metadata
     * @param received the model's weights before training, as {@link Trainer#weights} returns them
     * @param checkpoint the result of training
     * @return the change in every trainable variable
     */
    public static UpdateFile of(
            ModelMetadata model, SortedMap<String, float[]> received, Checkpoint checkpoint) {
        SortedMap<String, float[]> delta = new TreeMap<>();
        for (String name : model.weightShapes().keySet()) {
            float[] from = received.get(name);
            float[] to = checkpoint.weights().get(name);
            float[] change = new float[to.length];
            for (int place = 0; place < change.length; place++) {
                change[place] = to[place] - from[place];
            }
            delta.put(name, change);
        }
        return new UpdateFile(delta, checkpoint.before(), checkpoint.after());
    }

    /**
     * Writes the update of a model. The file says nothing about the phone or its owner.
     *
     * @param out the stream to write to, which stays open
     * @param model the model's metadata
     * @throws IOException if it cannot be written
     * @throws UnusableFileException if training diverged and the update would be refused
     */
    public void write(OutputStream out, ModelMetadata model) throws IOException {
        boolean finite = Double.isFinite(before.loss()) && Double.isFinite(after.loss());
        for (float[] values : delta.values()) {
            for (float value : values) {
                finite &= Float.isFinite(value);
            }
        }
        if (!finite) {
            throw new UnusableFileException(
                    "Training diverged to infinite values: forget it and train anew.");
        }
        try {
            JSONObject metadata = new JSONObject()
                    .put("architecture", model.architecture)
                    .put("base_hash", model.supernetHash)
                    .put("base_round", model.round)
                    .put("examples", after.examples())
                    .put("loss_before", before.loss())
                    .put("loss_after", after.loss())
                    .put("class_names", new JSONArray(model.classNames));
            new SafeTensors(metadata, delta).write(out, KIND, model.weightShapes());
        } catch (JSONException impossible) {
            throw new IOException(impossible); // All numbers are finite.
        }
    }

    /**
     * Computes an identifier of the change itself, which does not depend on the other fields.
     *
     * @return SHA-256 of the names and values of the tensors
     */
    public String fingerprint() {
        return new SafeTensors(new JSONObject(), delta).fingerprint();
    }

    /**
     * Reads an update of a model. Its scores have an accuracy of NaN, since the file has none.
     *
     * @param file the content of the update file
     * @param model the model's metadata
     * @return the update
     * @throws UnusableFileException if it is another file, incomplete, or of another model
     */
    public static UpdateFile read(byte[] file, ModelMetadata model) throws UnusableFileException {
        if (file.length > (long) Float.BYTES * model.parameters + HEADER_BYTES) {
            throw new UnusableFileException("This is no update of this model: it is too large.");
        }
        try {
            SafeTensors tensors = SafeTensors.read(file, KIND, model.weightShapes());
            JSONObject metadata = tensors.metadata();
            if (!metadata.getString("base_hash").equals(model.supernetHash)
                    || metadata.getInt("base_round") != model.round) {
                throw new UnusableFileException("it started from another supernet");
            }
            // Files of earlier versions have no class names.
            JSONArray names = metadata.optJSONArray("class_names");
            if (names != null && !ModelMetadata.texts(names).equals(model.classNames)) {
                throw new UnusableFileException("its labels are other classes");
            }
            int examples = metadata.getInt("examples");
            return new UpdateFile(tensors.values(),
                    new Score(examples, metadata.getDouble("loss_before"), Double.NaN),
                    new Score(examples, metadata.getDouble("loss_after"), Double.NaN));
        } catch (JSONException | UnusableFileException error) {
            throw new UnusableFileException(
                    "This is no update of this model: " + error.getMessage() + ".", error);
        }
    }
}
