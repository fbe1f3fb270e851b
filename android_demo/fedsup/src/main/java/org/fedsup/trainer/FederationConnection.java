package org.fedsup.trainer;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.cert.CertPathValidatorException;
import java.security.cert.CertificateException;
import java.security.cert.X509Certificate;
import java.util.Map;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLPeerUnverifiedException;
import javax.net.ssl.SSLSocketFactory;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;
import org.json.JSONException;
import org.json.JSONObject;
import org.jspecify.annotations.Nullable;

/** Sends single requests to one server and, with TLS, verifies that it is the intended one. */
final class FederationConnection {
    // Far more than any answer of the protocol other than a model.
    private static final int MAX_ANSWER_BYTES = 1 << 20;
    private static final int CONNECT_MS = 20_000;
    private static final int SILENCE_MS = 60_000;
    private static final int MAX_WAIT_SECONDS = 24 * 3600;

    private final ServerAddress address;
    private final @Nullable SSLSocketFactory pinned;

    FederationConnection(ServerAddress address) {
        this.address = address;
        pinned = address.certificate == null ? null : pinning(address.certificate);
    }

    /** An answer with a status from 200 to 299, whose body has not been read yet. */
    final class Answer {
        final int status;
        private final HttpURLConnection connection;

        private Answer(int status, HttpURLConnection connection) {
            this.status = status;
            this.connection = connection;
        }

        /** Opens the body. */
        InputStream body() throws IOException {
            try {
                return connection.getInputStream();
            } catch (IOException error) {
                throw noAnswer("a whole answer, received a part", error);
            }
        }

        /** Reads the body as a JSON object. */
        JSONObject json() throws IOException {
            byte[] text;
            try (InputStream body = body()) {
                text = SafeFile.read(body, MAX_ANSWER_BYTES);
            } catch (UnusableFileException tooLong) {
                throw noGateway("an answer in JSON, received a long one");
            } catch (UnavailableException error) {
                throw error;
            } catch (IOException error) {
                throw noAnswer("a whole answer, received a part", error);
            }
            JSONObject fields = parsed(text);
            if (fields == null) {
                throw noGateway("an answer in JSON, received something else");
            }
            return fields;
        }
    }

    /**
     * Sends a request.
     *
     * @throws UnavailableException if there is no answer, or its status is 429 or at least 500
     * @throws RefusedException if the status is any other of at least 400
     * @throws FederationException if the server is not the intended one, or not a fedsup server
     */
    Answer send(String method, String path, Map<String, String> headers, byte @Nullable [] body)
            throws IOException {
        HttpURLConnection connection = null;
        int status;
        try {
            connection = open(method, path, headers);
            if (body != null) {
                // Not in streaming mode: the platform must be able to send the body again.
                connection.setDoOutput(true);
                try (OutputStream out = connection.getOutputStream()) {
                    out.write(body);
                }
            }
            status = connection.getResponseCode();
        } catch (IOException error) {
            if (connection != null) {
                connection.disconnect();
            }
            if (isForeign(error)) {
                throw foreign(error);
            }
            throw noAnswer("an answer, received none", error);
        }
        if (status >= 200 && status < 300) {
            return new Answer(status, connection);
        }
        throw refusal(status, connection);
    }

    /** Returns the error of a server that does not speak the protocol. */
    FederationException noGateway(String expectedAndReceived) {
        return new FederationException(address.url + ": expected " + expectedAndReceived
                + ". Check that the address is that of a fedsup serve.");
    }

    /** Returns the error of a transfer that failed or never began. */
    UnavailableException noAnswer(String expectedAndReceived, IOException error) {
        String reason = error.getMessage() == null ? error.toString() : error.getMessage();
        return new UnavailableException(address.url + ": expected " + expectedAndReceived + " ("
                + reason + "). Check the network, the address and whether the server runs.", -1, error);
    }

    private HttpURLConnection open(String method, String path, Map<String, String> headers)
            throws IOException {
        HttpURLConnection connection =
                (HttpURLConnection) new URL(address.url + path).openConnection();
        if (pinned != null && connection instanceof HttpsURLConnection) {
            HttpsURLConnection encrypted = (HttpsURLConnection) connection;
            encrypted.setSSLSocketFactory(pinned);
            // The pinned certificate is accepted under any host name.
            encrypted.setHostnameVerifier((host, session) -> true);
        }
        connection.setRequestMethod(method);
        connection.setConnectTimeout(CONNECT_MS);
        connection.setReadTimeout(SILENCE_MS);
        connection.setUseCaches(false);
        connection.setInstanceFollowRedirects(false);
        // A model is checked by its hash and resumed at a byte offset; compression changes both.
        connection.setRequestProperty("Accept-Encoding", "identity");
        headers.forEach(connection::setRequestProperty);
        return connection;
    }

    private IOException refusal(int status, HttpURLConnection connection) {
        JSONObject fields = null;
        try (InputStream body = connection.getErrorStream()) {
            fields = body == null ? null : parsed(SafeFile.read(body, MAX_ANSWER_BYTES));
        } catch (IOException none) {
            // The status is sufficient.
        }
        String message = fields == null ? "" : fields.optString("message");
        if (message.isEmpty()) {
            message = address.url + ": the server answered " + status + ".";
        }
        if (status == 429 || status >= 500) {
            int seconds = connection.getHeaderFieldInt("Retry-After", -1);
            return new UnavailableException(message, Math.min(seconds, MAX_WAIT_SECONDS), null);
        }
        if (status < 400) {
            return noGateway("an answer of the protocol, received the status " + status);
        }
        String code = fields == null ? "" : fields.optString("code");
        return new RefusedException(status, code, message, connection.getDate());
    }

    private static @Nullable JSONObject parsed(byte[] text) {
        try {
            return new JSONObject(new String(text, StandardCharsets.UTF_8));
        } catch (JSONException | StackOverflowError none) {
            return null;
        }
    }

    private static boolean isForeign(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof CertificateException || cause instanceof CertPathValidatorException
                    || cause instanceof SSLPeerUnverifiedException) {
                return true;
            }
        }
        return false;
    }

    private FederationException foreign(IOException error) {
        String expected = address.certificate == null
                ? "a certificate that a public authority signed"
                : "the certificate " + address.certificate.substring(0, 12) + "... of the server's link";
        return new FederationException(address.url + ": expected " + expected
                + ", received another one. Nothing was sent. Check the address; if the server has a new "
                + "certificate, take its new link.", error);
    }

    /** Returns sockets that accept only the given certificate, whoever signed it. */
    private static SSLSocketFactory pinning(String certificate) {
        X509TrustManager one = new X509TrustManager() {
            @Override
            public void checkClientTrusted(X509Certificate[] chain, String type)
                    throws CertificateException {
                throw new CertificateException("There are no clients here.");
            }

            @Override
            public void checkServerTrusted(X509Certificate[] chain, String type)
                    throws CertificateException {
                if (!ModelMetadata.sha256(chain[0].getEncoded()).equals(certificate)) {
                    throw new CertificateException("another certificate");
                }
            }

            @Override
            public X509Certificate[] getAcceptedIssuers() {
                return new X509Certificate[0];
            }
        };
        try {
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(null, new TrustManager[] {one}, null);
            return context.getSocketFactory();
        } catch (GeneralSecurityException impossible) {
            throw new AssertionError(impossible); // Every Android and every JVM has TLS.
        }
    }
}
