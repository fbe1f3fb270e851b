package org.fedsup.trainer;

import org.json.JSONException;
import org.json.JSONObject;

/**
 * A round's work that the server assigns to a device.
 *
 * @param id the task's identifier
 * @param round the number of rounds that the model's supernet has been trained for
 * @param tier the tier that the subnet belongs to
 * @param model SHA-256 of the model's file
 * @param modelBytes size of the model's file in bytes
 * @param epochs the number of passes over the device's examples
 * @param learningRate the learning rate of SGD
 * @param seed the seed of the examples' order
 */
public record Task(String id, int round, String tier, String model, int modelBytes, int epochs,
        float learningRate, long seed) {
    /** Maximum size of a model's file in bytes. */
    static final int MAX_MODEL_BYTES = 256 << 20;

    private static final int MAX_EPOCHS = 1000;
    private static final float MAX_LEARNING_RATE = 1000;

    /** Parses and checks the task in the answer to a check-in. */
    static Task parse(JSONObject fields) throws JSONException {
        Task task = new Task(fields.getString("task"), fields.getInt("round"),
                fields.optString("tier"), fields.getString("model"), fields.getInt("model_bytes"),
                fields.getInt("epochs"), (float) fields.getDouble("learning_rate"),
                fields.getLong("seed"));
        if (!task.id.matches("[0-9a-f]{32}") || !task.model.matches("[0-9a-f]{64}")
                || task.modelBytes < 1 || task.modelBytes > MAX_MODEL_BYTES
                || task.epochs < 1 || task.epochs > MAX_EPOCHS
                || !(task.learningRate > 0 && task.learningRate <= MAX_LEARNING_RATE)) {
            throw new JSONException("Expected a task of the protocol, received " + fields);
        }
        return task;
    }
}
