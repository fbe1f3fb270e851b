package org.fedsup.trainer;

import java.io.File;
import java.io.IOException;
import java.util.SortedMap;
import java.util.TreeMap;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;
import org.jspecify.annotations.Nullable;

/** Stores the checkpoint of one model safely across restarts, kills and full disks. */
public final class CheckpointStore {
    private static final String KIND = "fedsup-tf phone checkpoint";
    // Space for names, shapes and losses in addition to the weights.
    private static final int HEADER_BYTES = 1 << 22;

    private final ModelMetadata model;
    private final File file;

    /**
     * Stores the checkpoint in a folder, in a file of this model's own.
     *
     * @param folder an existing folder
     * @param model the model's metadata
     */
    public CheckpointStore(File folder, ModelMetadata model) {
        this.model = model;
        file = new File(folder, "checkpoint-" + model.identity.substring(0, 16) + ".safetensors");
    }

    /**
     * Writes a checkpoint, which replaces the last one.
     *
     * @param checkpoint the checkpoint
     * @throws IOException if it could not be written; the last one is then unchanged
     */
    public void write(Checkpoint checkpoint) throws IOException {
        JSONObject metadata = new JSONObject();
        SafeTensors tensors = new SafeTensors(metadata, checkpoint.weights());
        try {
            JSONArray losses = new JSONArray();
            for (float loss : checkpoint.losses()) {
                losses.put(loss);
            }
            metadata.put("model", model.identity)
                    .put("before", checkpoint.before().toJson())
                    .put("after", checkpoint.after().toJson())
                    .put("losses", losses)
                    .put("sha256", tensors.fingerprint());
        } catch (JSONException notFinite) {
            throw new IOException("Training diverged to infinite losses.", notFinite);
        }
        SafeFile.replace(file, out -> tensors.write(out, KIND, model.variables));
    }

    /**
     * Reads the last checkpoint.
     *
     * @return the checkpoint, or null if there is none
     * @throws IOException if it cannot be read
     * @throws UnusableFileException if it is damaged
     */
    public @Nullable Checkpoint read() throws IOException {
        if (!file.exists()) {
            return null;
        }
        SortedMap<String, int[]> shapes = new TreeMap<>(model.variables);
        int values = 0;
        for (int[] shape : shapes.values()) {
            values += ModelMetadata.count(shape);
        }
        try {
            byte[] content = SafeFile.read(file, Float.BYTES * values + HEADER_BYTES);
            SafeTensors tensors = SafeTensors.read(content, KIND, shapes);
            JSONObject metadata = tensors.metadata();
            if (!metadata.getString("model").equals(model.identity)) {
                throw new UnusableFileException("it is another model's");
            }
            if (!metadata.getString("sha256").equals(tensors.fingerprint())) {
                throw new UnusableFileException("its values have changed");
            }
            JSONArray losses = metadata.getJSONArray("losses");
            float[] curve = new float[losses.length()];
            for (int step = 0; step < curve.length; step++) {
                curve[step] = (float) losses.getDouble(step);
            }
            return new Checkpoint(
                    tensors.values(), Score.fromJson(metadata.getJSONObject("before")),
                    Score.fromJson(metadata.getJSONObject("after")), curve);
        } catch (JSONException | UnusableFileException error) {
            throw new UnusableFileException("What was learned here could not be read ("
                    + error.getMessage() + "): the model starts as it came.", error);
        }
    }

    /** Deletes the checkpoint, if there is one. */
    public void delete() {
        file.delete();
    }
}
