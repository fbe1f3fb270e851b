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
 * Speaks with one fedsup serve for one device: enrolment, check-in, model, update, status, as
 * docs/gateway_protocol.md describes. Requests are repeated until they are answered, which the protocol
 * allows for each of them. {@link Participant} does all of it in order. Not for the main thread of
 * an app, nor for several threads at once.
 */
public final class Federation {
    /** Version of the protocol. */
    public static final int PROTOCOL = 1;

    private static final double FIRST_WAIT_SECONDS = 1;
    private static final double MOST_WAIT_SECONDS = 300;
    private static final byte[] NOTHING = new byte[0];

    /** Waits between two attempts. */
    public interface Pause {
        /**
         * Waits.
         *
         * @param milliseconds how long
         * @throws InterruptedException if the wait is cut short, which ends the request
         */
        void sleep(long milliseconds) throws InterruptedException;
    }

    /**
     * A device as a server knows it.
     *
     * @param device 32 hexadecimal digits
     * @param key 64 hexadecimal digits: the key to sign with, which is told once and must be kept
     */
    public record Identity(String device, String key) {}

    /**
     * What a check-in is answered.
     *
     * @param waitSeconds seconds until the next one: from now without a task, else after it is done
     * @param task the task, or null for none
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
    // Seconds that the server's clock is ahead.
    private long clockOffset;

    /**
     * Prepares the requests; sends none.
     *
     * @param address the server
     * @param attempts times that a request is sent until it is answered, from 1
     * @param pause waits between them, such as {@code Thread::sleep}
     */
    public Federation(ServerAddress address, int attempts, Pause pause) {
        this.address = address;
        this.attempts = attempts;
        this.pause = pause;
        connection = new FederationConnection(address);
    }

    /**
     * Returns the server.
     *
     * @return its address
     */
    public ServerAddress address() {
        return address;
    }

    /**
     * Speaks for a device that enrolled before.
     *
     * @param device the identity that {@link #enrol} gave
     */
    public void use(Identity device) {
        identity = device;
    }

    /**
     * Asks for the server's protocol.
     *
     * @throws FederationException if it speaks another version of the protocol, or none
     * @throws UnavailableException if it does not answer
     * @throws IOException if it refuses
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
     * Makes this a device of the server.
     *
     * @return its identity, which must be kept: without it the device is lost to the server
     * @throws FederationException if there is no token, or the server refuses it
     * @throws UnavailableException if the server does not answer
     * @throws IOException if it refuses
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
     * @param fields {@code tier} or {@code capability}, {@code runtime}, {@code application} and, if
     *     there is one, {@code model}
     * @return the task or none, and when to come back
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
            return new Answer(answer.getInt("wait_seconds"), task == null ? null : Task.parse(task));
        } catch (JSONException error) {
            throw connection.noGateway("an answer of the protocol, received " + answer);
        }
    }

    /**
     * Fetches a task's model; what an earlier call began to fetch is not sent again.
     *
     * @param task the task
     * @param file where it is put once it is whole; while it comes, {@code .part} is behind the name
     * @throws UnavailableException if the transfer breaks again and again; what came is kept
     * @throws RefusedException if the server has no such model any more
     * @throws FederationException if it sends something else
     * @throws IOException if the model cannot be written, with a sentence for a person
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
     * Sends an update; sent again it counts once.
     *
     * @param task the task's identity
     * @param update all bytes of the update file
     * @return seconds until the next check-in
     * @throws UnavailableException if there is no answer; the update must be kept and sent again
     * @throws RefusedException if it cannot be used
     * @throws IOException if something else fails
     */
    public int sendUpdate(String task, byte[] update) throws IOException {
        String path = "/v1/tasks/" + task + "/updates/" + ModelMetadata.sha256(update);
        JSONObject answer = repeat(() -> signed("PUT", path, update, "application/octet-stream").json());
        return Math.max(1, answer.optInt("wait_seconds", 60));
    }

    /**
     * Asks what came of the device's latest updates.
     *
     * @return the round, and {@code updates} with {@code state} and {@code reason} of each
     * @throws UnavailableException if there is no answer
     * @throws IOException if something else fails
     */
    public JSONObject status() throws IOException {
        return repeat(() -> signed("GET", "/v1/status", null, null).json());
    }

    /** Signs and sends; what goes with it is the type of its body, or the range that is wanted. */
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

    /** Sends a request until it is answered, waiting longer each time. */
    private <T> T repeat(Request<T> request) throws IOException {
        for (int attempt = 1; ; attempt++) {
            try {
                return request.send();
            } catch (RefusedException error) {
                // Nothing that the device does by itself changes these.
                if (error.status == 401 || error.status == 403) {
                    throw new FederationException(address.url + ": " + error.getMessage(), error);
                }
                throw error;
            } catch (UnavailableException error) {
                if (attempt >= attempts) {
                    throw error;
                }
                double most = Math.min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * Math.pow(2, attempt - 1));
                // No two devices come back at once.
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

    private static byte[] bytes(JSONObject fields) {
        return fields.toString().getBytes(StandardCharsets.UTF_8);
    }
}
