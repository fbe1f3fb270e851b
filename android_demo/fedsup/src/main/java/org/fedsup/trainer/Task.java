package org.fedsup.trainer;

import org.json.JSONException;
import org.json.JSONObject;

/**
 * Work that the server gives a device in a round.
 *
 * @param id the task's identity
 * @param round rounds that the model's supernet was trained for
 * @param tier the tier whose subnet it is
 * @param model SHA-256 of the model
 * @param modelBytes size of the model
 * @param epochs passes over the device's examples
 * @param learningRate learning rate of SGD
 * @param seed decides the order of the examples
 */
public record Task(String id, int round, String tier, String model, int modelBytes, int epochs,
        float learningRate, long seed) {

    /** Reads and checks the fields of a check-in's answer. */
    static Task parse(JSONObject fields) throws JSONException {
        Task task = new Task(fields.getString("task"), fields.getInt("round"),
                fields.optString("tier"), fields.getString("model"), fields.getInt("model_bytes"),
                fields.getInt("epochs"), (float) fields.getDouble("learning_rate"),
                fields.getLong("seed"));
        if (!task.id.matches("[0-9a-f]{32}") || !task.model.matches("[0-9a-f]{64}")
                || task.modelBytes < 1 || task.epochs < 1 || !(task.learningRate > 0)) {
            throw new JSONException("Expected a task of the protocol, received " + fields);
        }
        return task;
    }
}
