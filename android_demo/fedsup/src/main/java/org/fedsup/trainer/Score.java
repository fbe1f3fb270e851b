package org.fedsup.trainer;

import org.json.JSONException;
import org.json.JSONObject;

/**
 * Loss and accuracy of a model on some examples.
 *
 * @param examples the number of examples
 * @param loss mean cross-entropy
 * @param accuracy fraction of correct answers, 0 to 1
 */
public record Score(int examples, double loss, double accuracy) {
    JSONObject toJson() throws JSONException {
        return new JSONObject().put("examples", examples).put("loss", loss).put("accuracy", accuracy);
    }

    static Score fromJson(JSONObject fields) throws JSONException {
        return new Score(
                fields.getInt("examples"), fields.getDouble("loss"), fields.getDouble("accuracy"));
    }
}
