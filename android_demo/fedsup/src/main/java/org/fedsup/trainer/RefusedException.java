package org.fedsup.trainer;

import java.io.IOException;

/** Thrown when the server refuses a request for good; the message is the server's. */
public final class RefusedException extends IOException {
    /** HTTP status code of the answer. */
    public final int status;
    /** One of the protocol's error codes. */
    public final String code;
    /** The server's time in milliseconds since 1970, or 0 if the answer has none. */
    final long serverTime;

    RefusedException(int status, String code, String message, long serverTime) {
        super(message);
        this.status = status;
        this.code = code;
        this.serverTime = serverTime;
    }
}
