package org.fedsup.trainer;

import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** Signs requests to a {@code fedsup serve}, as docs/gateway_protocol.md specifies. */
final class RequestSignature {
    private RequestSignature() {}

    /** Returns a request's signature under a key of 64 hexadecimal digits. */
    static String of(String key, String method, String path, String bodyHash, long time) {
        byte[] secret = new byte[key.length() / 2];
        for (int place = 0; place < secret.length; place++) {
            secret[place] = (byte) Integer.parseInt(key.substring(2 * place, 2 * place + 2), 16);
        }
        String text = method + "\n" + path + "\n" + bodyHash + "\n" + time;
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(secret, "HmacSHA256"));
            return ModelMetadata.hexadecimal(mac.doFinal(text.getBytes(StandardCharsets.UTF_8)));
        } catch (GeneralSecurityException impossible) {
            throw new AssertionError(impossible); // Every Android and every JVM has it.
        }
    }
}
