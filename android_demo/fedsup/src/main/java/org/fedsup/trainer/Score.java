package org.fedsup.trainer;

import org.json.JSONException;
import org.json.JSONObject;

/**
 * How a model does on some examples.
 *
 * @param examples how many there are
 * @param loss mean cross-entropy
 * @param accuracy share of right answers, 0 to 1
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
