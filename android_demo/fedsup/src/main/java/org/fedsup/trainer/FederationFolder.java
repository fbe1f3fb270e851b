package org.fedsup.trainer;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import org.json.JSONException;
import org.json.JSONObject;
import org.jspecify.annotations.Nullable;

/**
 * Files that a device keeps between visits: its identity, its model, and an update that is waiting
 * to be sent. Each file is either complete or absent, even if the process is killed.
 */
final class FederationFolder {
    private static final String MODEL = ".tflite";
    // Far more than these names and numbers need.
    private static final int MAX_TEXT_BYTES = 1 << 16;
    private static final int MAX_UPDATE_BYTES = 256 << 20;

    private final File identity;
    private final File pending;
    private final File update;
    private final File models;

    /** Creates the folder if it is missing; other apps should not be able to read it. */
    FederationFolder(File folder) {
        identity = new File(folder, "identity.json");
        pending = new File(folder, "pending.json");
        update = new File(folder, "update.safetensors");
        models = new File(folder, "models");
        models.mkdirs();
    }

    /**
     * An update that the server has not confirmed yet.
     *
     * @param task the task's identifier
     * @param round the task's round
     * @param before score of the received model
     * @param after score after training
     */
    record Pending(String task, int round, Score before, Score after) {}

    /** Reads the device's identity at a server; returns null if it has not enrolled. */
    Federation.@Nullable Identity identity(String url) throws IOException {
        JSONObject fields;
        try {
            fields = read(identity);
        } catch (JSONException damaged) {
            throw new UnusableFileException("This device's identity at the server is damaged: delete "
                    + identity + " to enrol anew.", damaged);
        }
        if (fields == null) {
            return null;
        }
        if (!url.equals(fields.optString("url"))) {
            throw new FederationException("Expected a device of " + url + ", received one of "
                    + fields.optString("url") + ". Give that server, or another folder.");
        }
        return new Federation.Identity(fields.optString("device"), fields.optString("key"));
    }

    void keepIdentity(String url, Federation.Identity device) throws IOException {
        try {
            write(identity, new JSONObject().put("url", url)
                    .put("device", device.device()).put("key", device.key()));
        } catch (JSONException impossible) {
            throw new IOException(impossible); // All values are strings.
        }
    }

    /** Returns the hash of the stored model, or null if there is none. */
    @Nullable String heldModel() {
        for (String name : names()) {
            if (name.endsWith(MODEL)) {
                return name.substring(0, name.length() - MODEL.length());
            }
        }
        return null;
    }

    File model(String hash) {
        return new File(models, hash + MODEL);
    }

    /** Removes all models but one, including partial downloads. */
    void removeOtherModels(String hash) {
        for (String name : names()) {
            if (!name.startsWith(hash)) {
                new File(models, name).delete();
            }
        }
    }

    /** Stores an update, so that the next visit sends it if the process ends now. */
    Pending keepUpdate(Task task, UpdateFile made, ModelMetadata model) throws IOException {
        SafeFile.replace(update, out -> made.write(out, model));
        Pending kept = new Pending(task.id(), task.round(), made.before(), made.after());
        try {
            write(pending, new JSONObject().put("task", kept.task).put("round", kept.round)
                    .put("before", kept.before.toJson()).put("after", kept.after.toJson()));
        } catch (JSONException impossible) {
            throw new IOException(impossible); // An update's numbers are finite.
        }
        return kept;
    }

    /** Returns the update that is waiting to be sent, or null if there is none. */
    @Nullable Pending pending() throws IOException {
        try {
            JSONObject fields = read(pending);
            return fields == null || !update.exists() ? null : new Pending(fields.getString("task"),
                    fields.getInt("round"), Score.fromJson(fields.getJSONObject("before")),
                    Score.fromJson(fields.getJSONObject("after")));
        } catch (JSONException damaged) {
            pending.delete(); // The server assigns the task again.
            return null;
        }
    }

    byte[] update() throws IOException {
        return SafeFile.read(update, MAX_UPDATE_BYTES);
    }

    /** Deletes the update, once it has arrived or cannot be used. */
    void dropUpdate() {
        pending.delete();
        update.delete();
    }

    private String[] names() {
        String[] names = models.list();
        return names == null ? new String[0] : names;
    }

    private static @Nullable JSONObject read(File file) throws IOException, JSONException {
        if (!file.exists()) {
            return null;
        }
        byte[] text = SafeFile.read(file, MAX_TEXT_BYTES);
        return new JSONObject(new String(text, StandardCharsets.UTF_8));
    }

    private static void write(File file, JSONObject fields) throws IOException {
        byte[] text = fields.toString().getBytes(StandardCharsets.UTF_8);
        SafeFile.replace(file, out -> out.write(text));
    }
}
