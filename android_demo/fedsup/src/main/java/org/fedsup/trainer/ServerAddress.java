package org.fedsup.trainer;

import java.io.UnsupportedEncodingException;
import java.net.URLDecoder;
import java.util.HashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/** Address of a server, the token to enrol with it, and the certificate to accept. */
public final class ServerAddress {
    private static final String LINK = "fedsup://enrol?";
    /** Scheme, host, port and path; the same pattern as in tflite/together/address.py. */
    private static final Pattern ADDRESS = Pattern.compile(
            "(https?)://([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\\[[0-9A-Fa-f:.]+\\])"
                    + "(?::([0-9]{1,5}))?((?:/[A-Za-z0-9._~%-]*)*)");
    private static final int MAX_CHARACTERS = 200;

    /** The address up to {@code /v1/}, without a trailing slash. */
    public final String url;
    /** The enrolment token, or null for a device that has enrolled before. */
    public final @Nullable String token;
    /** SHA-256 of the only accepted certificate; null to accept those of public authorities. */
    public final @Nullable String certificate;

    private ServerAddress(String url, @Nullable String token, @Nullable String certificate) {
        this.url = url;
        this.token = token;
        this.certificate = certificate;
    }

    /**
     * Parses text that a person typed or scanned.
     *
     * @param text an address such as https://example.org:8443, or the complete link that
     *     {@code fedsup serve} prints, {@code fedsup://enrol?server=...&token=...&certificate=...}
     * @param token the enrolment token if the text is an address, or null for none
     * @return the parsed address
     * @throws FederationException if the text is neither, or the address uses http for a host other
     *     than this machine
     */
    public static ServerAddress parse(String text, @Nullable String token) throws FederationException {
        String trimmed = text.trim();
        if (!trimmed.startsWith("fedsup:")) {
            return checked(trimmed, token == null || token.trim().isEmpty() ? null : token.trim(), null);
        }
        Map<String, String> fields = new HashMap<>();
        if (trimmed.startsWith(LINK)) {
            for (String field : trimmed.substring(LINK.length()).split("&")) {
                int middle = field.indexOf('=');
                if (middle > 0) {
                    fields.put(field.substring(0, middle), decoded(field.substring(middle + 1)));
                }
            }
        }
        String server = fields.get("server");
        if (server == null || !fields.containsKey("token")) {
            throw new FederationException("The server's link: expected " + LINK
                    + "server=...&token=..., received " + trimmed
                    + ". Copy the whole line that the server prints.");
        }
        return checked(server, fields.get("token"), fields.get("certificate"));
    }

    private static ServerAddress checked(
            String url, @Nullable String token, @Nullable String certificate) throws FederationException {
        Matcher found = ADDRESS.matcher(url);
        boolean isAddress = url.length() <= MAX_CHARACTERS && found.matches()
                && (found.group(3) == null || isPort(Integer.parseInt(found.group(3))));
        if (!isAddress) {
            throw new FederationException("The server: expected an address such as "
                    + "https://example.org:8443 (a host, perhaps a port from 1 to 65535 and a path, "
                    + "nothing else), or the link that the server prints, received " + url
                    + ". Copy it from there.");
        }
        if ("http".equals(found.group(1)) && !isLoopback(found.group(2))) {
            throw new FederationException("The server: expected an address with https, received "
                    + url + ". The device's key would travel in the clear.");
        }
        if (certificate != null && !certificate.matches("[0-9a-f]{64}")) {
            throw new FederationException("The server's certificate: expected its SHA-256 as 64 "
                    + "lower-case hexadecimal digits, received " + certificate
                    + ". Copy the whole line that the server prints.");
        }
        String end = url.replaceAll("/+$", "");
        return new ServerAddress(end, token, certificate);
    }

    private static boolean isPort(int number) {
        return 0 < number && number < 65536;
    }

    private static boolean isLoopback(String host) {
        return host.equals("localhost") || host.equals("[::1]") || host.matches("127(\\.\\d{1,3}){3}");
    }

    private static String decoded(String value) throws FederationException {
        try {
            return URLDecoder.decode(value, "UTF-8");
        } catch (UnsupportedEncodingException | IllegalArgumentException damaged) {
            throw new FederationException("The server's link: expected percent-encoded values, received "
                    + value + ". Copy the whole line that the server prints.", damaged);
        }
    }
}
