package org.fedsup.trainer;

import java.io.IOException;
import java.io.OutputStream;
import java.util.SortedMap;
import java.util.TreeMap;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * What a phone sends back: the change of its subnet's weights, in the format of
 * tflite/format/update_file.py, for fedsup merge.
 *
 * @param delta trained minus received weights by name
 * @param before score of the received weights on the examples trained on
 * @param after score of the trained weights on them
 */
public record UpdateFile(SortedMap<String, float[]> delta, Score before, Score after) {
    private static final String KIND = "fedsup-tf update";
    // Room for names, shapes and metadata beside the tensors.
    private static final int HEADER_BYTES = 1 << 20;

    /**
     * Makes the update that a checkpoint is.
     *
     * @param model the model's metadata
     * @param received the weights that the model came with, as {@link Trainer#weights} gives them
     * @param checkpoint what was learned
     * @return the change of every trained variable
     */
    public static UpdateFile of(
            ModelMetadata model, SortedMap<String, float[]> received, Checkpoint checkpoint) {
        SortedMap<String, float[]> delta = new TreeMap<>();
        for (String name : model.trained().keySet()) {
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
     * Writes the update of a model. It says nothing of the phone or its owner.
     *
     * @param out where to write it; stays open
     * @param model the model's metadata
     * @throws IOException if it cannot be written
     * @throws UnusableFileException if training went astray and the update would be refused
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
                    "Training went astray, with values that are no numbers: forget it and train anew.");
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
            new SafeTensors(metadata, delta).write(out, KIND, model.trained());
        } catch (JSONException impossible) {
            throw new IOException(impossible); // All numbers are finite.
        }
    }

    /**
     * Computes a name for the change itself, whoever made it.
     *
     * @return SHA-256 of the names and values of the tensors
     */
    public String fingerprint() {
        return new SafeTensors(new JSONObject(), delta).fingerprint();
    }

    /**
     * Reads an update of a model; its scores have no accuracy, which the file does not tell.
     *
     * @param file all bytes of the update
     * @param model the model's metadata
     * @return the update
     * @throws UnusableFileException if it is another file, not whole, or of another model
     */
    public static UpdateFile read(byte[] file, ModelMetadata model) throws UnusableFileException {
        if (file.length > Float.BYTES * model.parameters + HEADER_BYTES) {
            throw new UnusableFileException("This is no update of this model: it is too large.");
        }
        try {
            SafeTensors tensors = SafeTensors.read(file, KIND, model.trained());
            JSONObject metadata = tensors.metadata();
            if (!metadata.getString("base_hash").equals(model.supernetHash)
                    || metadata.getInt("base_round") != model.round) {
                throw new UnusableFileException("it started from another supernet");
            }
            // Files of earlier versions do not tell their classes.
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
