package org.fedsup.trainer;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.Closeable;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import javax.net.ssl.SSLContext;
import org.jspecify.annotations.Nullable;

/** A gateway on the loopback interface that assigns one task, with faults that tests inject. */
public final class FakeGateway implements Closeable {
    public static final String TOKEN = "token-1";
    public static final String DEVICE = "0123456789abcdef0123456789abcdef";
    public static final String KEY = "ab".repeat(32);
    public static final String TASK = "fedcba9876543210fedcba9876543210";

    /** Faults to inject, by the name of the request; each of them is used once. */
    public final Map<String, Deque<Fault>> faults = new HashMap<>();
    /** Requests in the order of arrival: a name, and the range if there is one. */
    public final List<String> requests = new ArrayList<>();
    /** Accepted updates by their hash. */
    public final Map<String, byte[]> updates = new HashMap<>();
    /** Body of the last check-in. */
    public String checkIn = "";
    public int protocol = Federation.PROTOCOL;
    /** Fields of the task that replace others, as JSON. */
    public String taskFields = "";
    public byte[] model;

    private final HttpServer server;
    private final boolean encrypted;
    private final String hash;

    /** A fault in one answer. */
    public interface Fault {
        /** Injects the fault; returns whether the gateway still has to answer. */
        boolean answer(HttpExchange exchange) throws IOException;
    }

    public FakeGateway(@Nullable SSLContext tls) throws IOException {
        model = Golden.model();
        hash = ModelMetadata.sha256(model);
        encrypted = tls != null;
        InetSocketAddress loopback = new InetSocketAddress(InetAddress.getLoopbackAddress(), 0);
        if (tls == null) {
            server = HttpServer.create(loopback, 0);
        } else {
            HttpsServer https = HttpsServer.create(loopback, 0);
            https.setHttpsConfigurator(new HttpsConfigurator(tls));
            server = https;
        }
        server.createContext("/", this::handle);
        server.start();
    }

    public String url() {
        return (encrypted ? "https" : "http") + "://localhost:" + server.getAddress().getPort();
    }

    public void fault(String request, Fault fault) {
        faults.computeIfAbsent(request, name -> new ArrayDeque<>()).add(fault);
    }

    /** Returns a fault that is an error answer of the protocol. */
    public static Fault refusal(int status, String code, String... header) {
        return exchange -> {
            exchange.getRequestBody().readAllBytes();
            if (header.length > 0) {
                exchange.getResponseHeaders().set(header[0], header[1]);
            }
            send(exchange, status, "{\"code\": \"" + code + "\", \"message\": \"It says " + code + ".\"}");
            return false;
        };
    }

    @Override
    public void close() {
        server.stop(0);
    }

    private void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            String path = exchange.getRequestURI().getPath();
            String name = path.contains("/updates/") ? "update" : path.startsWith("/v1/models/") ? "model"
                    : path.substring(path.lastIndexOf('/') + 1);
            String range = exchange.getRequestHeaders().getFirst("Range");
            requests.add(range == null ? name : name + " " + range);
            Deque<Fault> own = faults.get(name);
            if (own != null && !own.isEmpty() && !own.remove().answer(exchange)) {
                return;
            }
            byte[] body = exchange.getRequestBody().readAllBytes();
            if (name.equals("health")) {
                send(exchange, 200, "{\"protocol\": " + protocol + ", \"version\": \"9\"}");
            } else if (name.equals("enrol")) {
                boolean known = new String(body, StandardCharsets.UTF_8).contains("\"" + TOKEN + "\"");
                send(exchange, known ? 201 : 403, known
                        ? "{\"device\": \"" + DEVICE + "\", \"key\": \"" + KEY + "\"}"
                        : "{\"code\": \"token\", \"message\": \"Expected the token.\"}");
            } else if (!isSigned(exchange, path, body)) {
                send(exchange, 401, "{\"code\": \"signature\", \"message\": \"Expected a signature.\"}");
            } else if (name.equals("check-in")) {
                checkIn = new String(body, StandardCharsets.UTF_8);
                send(exchange, 200, "{\"wait_seconds\": 30" + (updates.isEmpty() ? task() : "") + "}");
            } else if (name.equals("model")) {
                sendModel(exchange, range);
            } else if (name.equals("update")) {
                updates.put(path.substring(path.lastIndexOf('/') + 1), body);
                send(exchange, 201, "{\"wait_seconds\": 40}");
            } else {
                send(exchange, 200, "{\"round\": 1, \"updates\": []}");
            }
        }
    }

    private String task() {
        return ", \"task\": {\"task\": \"" + TASK + "\", \"round\": 7, \"tier\": \"small\", \"model\": \""
                + hash + "\", \"model_bytes\": " + model.length
                + ", \"epochs\": 2, \"learning_rate\": 0.05, \"seed\": 5"
                + (taskFields.isEmpty() ? "" : ", " + taskFields) + "}";
    }

    private void sendModel(HttpExchange exchange, @Nullable String range) throws IOException {
        int begin = range == null ? 0 : Integer.parseInt(range.replaceAll("\\D", ""));
        byte[] rest = Arrays.copyOfRange(model, begin, model.length);
        exchange.sendResponseHeaders(range == null ? 200 : 206, rest.length);
        exchange.getResponseBody().write(rest);
    }

    private static boolean isSigned(HttpExchange exchange, String path, byte[] body) {
        String[] parts = exchange.getRequestHeaders().getFirst("Authorization").split("[ :]");
        long time = Long.parseLong(parts[2]);
        String expected = RequestSignature.of(
                KEY, exchange.getRequestMethod(), path, ModelMetadata.sha256(body), time);
        return parts[0].equals("Fedsup") && parts[1].equals(DEVICE) && parts[3].equals(expected);
    }

    public static void send(HttpExchange exchange, int status, String json) throws IOException {
        byte[] body = json.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(status, body.length);
        exchange.getResponseBody().write(body);
    }
}
