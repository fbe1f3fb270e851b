package org.fedsup.trainer;

import java.io.File;
import java.io.IOException;
import java.io.InterruptedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import org.json.JSONException;
import org.json.JSONObject;
import org.jspecify.annotations.Nullable;

/**
 * Client of one {@code fedsup serve} for one device: enrolment, check-in, model download, update
 * upload and status, as docs/gateway_protocol.md specifies. Unanswered requests are retried, which
 * the protocol allows for all of them. {@link Participant} makes the requests in the right order.
 * Not thread-safe; do not use it on an app's main thread.
 */
public final class Federation {
    /** Version of the protocol that this class speaks. */
    public static final int PROTOCOL = 1;

    private static final double FIRST_PAUSE_SECONDS = 1;
    private static final double MAX_PAUSE_SECONDS = 300;
    private static final byte[] NOTHING = new byte[0];
    // Time until the next check-in: without one from the server, and at most.
    private static final int WAIT_SECONDS = 60;
    private static final int MAX_WAIT_SECONDS = 7 * 24 * 3600;

    /** Delay between two attempts of a request. */
    public interface Pause {
        /**
         * Waits for the given time.
         *
         * @param milliseconds the time to wait
         * @throws InterruptedException if the wait is interrupted, which aborts the request
         */
        void sleep(long milliseconds) throws InterruptedException;
    }

    /**
     * Credentials of a device at one server.
     *
     * @param device the device's identifier: 32 hexadecimal digits
     * @param key the signing key: 64 hexadecimal digits, sent by the server only once
     */
    public record Identity(String device, String key) {}

    /**
     * The answer to a check-in.
     *
     * @param waitSeconds seconds until the next check-in, counted from now if there is no task, and
     *     otherwise from the end of the task
     * @param task the task, or null if there is none
     */
    public record Answer(int waitSeconds, @Nullable Task task) {}

    private interface Request<T> {
        T send() throws IOException;
    }

    private final ServerAddress address;
    private final int attempts;
    private final Pause pause;
    private final FederationConnection connection;
    private final Random random = new Random();
    private @Nullable Identity identity;
    // Seconds by which the server's clock is ahead of the device's.
    private long clockOffset;

    /**
     * Creates a client; sends nothing yet.
     *
     * @param address the server's address
     * @param attempts the maximum number of times that a request is sent, at least 1
     * @param pause waits between two attempts, for example {@code Thread::sleep}
     */
    public Federation(ServerAddress address, int attempts, Pause pause) {
        this.address = address;
        this.attempts = attempts;
        this.pause = pause;
        connection = new FederationConnection(address);
    }

    /**
     * Returns the server's address.
     *
     * @return the address
     */
    public ServerAddress address() {
        return address;
    }

    /**
     * Sets the identity of a device that has enrolled before.
     *
     * @param device the identity that {@link #enrol} returned
     */
    public void use(Identity device) {
        identity = device;
    }

    /**
     * Checks that the server speaks this version of the protocol.
     *
     * @throws FederationException if it speaks another version, or not this protocol at all
     * @throws UnavailableException if it does not answer
     * @throws IOException if it refuses the request
     */
    public void checkServer() throws IOException {
        JSONObject fields = repeat(
                () -> connection.send("GET", "/health", Collections.emptyMap(), null).json());
        if (fields.optInt("protocol") != PROTOCOL) {
            throw new FederationException(address.url + ": expected a server of protocol version "
                    + PROTOCOL + ", received " + fields.opt("protocol")
                    + ". Update the app to the version that the server has ("
                    + fields.opt("version") + ").");
        }
    }

    /**
     * Enrols this device with the server.
     *
     * @return the device's identity, which must be stored: the server does not send it again
     * @throws FederationException if the address has no token, or the server refuses the token
     * @throws UnavailableException if the server does not answer
     * @throws IOException if it refuses the request
     */
    public Identity enrol() throws IOException {
        if (address.token == null) {
            throw new FederationException(address.url + ": expected the token of enrolment, received "
                    + "none. Enter the link that the server prints, or its token.");
        }
        byte[] body = bytes(new JSONObject(Collections.singletonMap("token", address.token)));
        JSONObject fields = repeat(() -> connection.send("POST", "/v1/enrol",
                Collections.singletonMap("Content-Type", "application/json"), body).json());
        Identity made = new Identity(fields.optString("device"), fields.optString("key"));
        if (!made.device.matches("[0-9a-f]{32}") || !made.key.matches("[0-9a-f]{64}")) {
            throw connection.noGateway("an identity and a key, received something else");
        }
        identity = made;
        return made;
    }

    /**
     * Asks for a task.
     *
     * @param fields the request's fields: {@code tier} or {@code capability}, {@code runtime},
     *     {@code application} and, if the device holds a model, {@code model}
     * @return the task, if any, and the time until the next check-in
     * @throws FederationException if the device was revoked, or its tier is unknown
     * @throws UnavailableException if the server does not answer
     * @throws IOException if something else fails
     */
    public Answer checkIn(JSONObject fields) throws IOException {
        JSONObject answer;
        try {
            byte[] body = bytes(fields);
            answer = repeat(() -> signed("POST", "/v1/check-in", body, "application/json").json());
        } catch (RefusedException error) {
            throw new FederationException(error.getMessage(), error);
        }
        try {
            JSONObject task = answer.optJSONObject("task");
            answer.getInt("wait_seconds");
            return new Answer(waitSeconds(answer), task == null ? null : Task.parse(task));
        } catch (JSONException error) {
            throw connection.noGateway("an answer of the protocol, received " + answer);
        }
    }

    /**
     * Downloads a task's model, resuming an earlier download that was interrupted.
     *
     * @param task the task
     * @param file the file for the complete model; a partial download has the suffix {@code .part}
     * @throws UnavailableException if all attempts fail; the bytes received so far are kept
     * @throws RefusedException if the server no longer has the model
     * @throws FederationException if it sends something else
     * @throws IOException if the model cannot be written; the message is meant for the user
     */
    public void fetchModel(Task task, File file) throws IOException {
        ModelDownload download = new ModelDownload(connection, task, file);
        repeat(() -> {
            download.receive(range -> signed("GET", "/v1/models/" + task.model(), null, range));
            return true;
        });
        download.finish();
    }

    /**
     * Uploads an update. An update that is uploaded several times counts once.
     *
     * @param task the task's identifier
     * @param update the content of the update file
     * @return seconds until the next check-in
     * @throws UnavailableException if there is no answer; keep the update and upload it again
     * @throws RefusedException if the server cannot use the update
     * @throws IOException if something else fails
     */
    public int sendUpdate(String task, byte[] update) throws IOException {
        String path = "/v1/tasks/" + task + "/updates/" + ModelMetadata.sha256(update);
        JSONObject answer = repeat(() -> signed("PUT", path, update, "application/octet-stream").json());
        return waitSeconds(answer);
    }

    /**
     * Asks for the state of the device's latest updates.
     *
     * @return the round, and {@code updates} with the {@code state} and {@code reason} of each
     * @throws UnavailableException if there is no answer
     * @throws IOException if something else fails
     */
    public JSONObject status() throws IOException {
        return repeat(() -> signed("GET", "/v1/status", null, null).json());
    }

    /**
     * Signs and sends a request; {@code with} is the content type of the body or, without a body,
     * the requested range.
     */
    private FederationConnection.Answer signed(
            String method, String path, byte @Nullable [] body, @Nullable String with) throws IOException {
        try {
            return signAndSend(method, path, body, with);
        } catch (RefusedException error) {
            if (!error.code.equals("time") || error.serverTime == 0) {
                throw error;
            }
            clockOffset = (error.serverTime - System.currentTimeMillis()) / 1000;
            return signAndSend(method, path, body, with);
        }
    }

    private FederationConnection.Answer signAndSend(
            String method, String path, byte @Nullable [] body, @Nullable String with) throws IOException {
        Identity device = identity;
        if (device == null) {
            throw new FederationException("Expected a device that enrolled, received one that did not.");
        }
        Map<String, String> headers = new HashMap<>();
        if (with != null) {
            headers.put(body == null ? "Range" : "Content-Type", with);
        }
        long time = System.currentTimeMillis() / 1000 + clockOffset;
        String hash = ModelMetadata.sha256(body == null ? NOTHING : body);
        headers.put("Authorization", "Fedsup " + device.device + ":" + time + ":"
                + RequestSignature.of(device.key, method, path, hash, time));
        return connection.send(method, path, headers, body);
    }

    /** Sends a request until it is answered, with exponential backoff. */
    private <T> T repeat(Request<T> request) throws IOException {
        for (int attempt = 1; ; attempt++) {
            try {
                return request.send();
            } catch (RefusedException error) {
                // Retrying does not help: a person has to act.
                if (error.status == 401 || error.status == 403) {
                    throw new FederationException(address.url + ": " + error.getMessage(), error);
                }
                throw error;
            } catch (UnavailableException error) {
                // A visit does not wait for hours: the caller comes back later.
                if (attempt >= attempts || error.seconds > MAX_PAUSE_SECONDS) {
                    throw error;
                }
                double most = Math.min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * Math.pow(2, attempt - 1));
                // Random jitter, so that devices do not all retry at the same time.
                double wait = most * (0.5 + 0.5 * random.nextDouble());
                sleep((long) (1000 * Math.max(wait, error.seconds)));
            }
        }
    }

    private void sleep(long milliseconds) throws InterruptedIOException {
        try {
            pause.sleep(milliseconds);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            throw new InterruptedIOException("The request was ended while it waited.");
        }
    }

    private static int waitSeconds(JSONObject answer) {
        long seconds = answer.optLong("wait_seconds", WAIT_SECONDS);
        return (int) Math.max(1, Math.min(seconds, MAX_WAIT_SECONDS));
    }

    private static byte[] bytes(JSONObject fields) {
        return fields.toString().getBytes(StandardCharsets.UTF_8);
    }
}
