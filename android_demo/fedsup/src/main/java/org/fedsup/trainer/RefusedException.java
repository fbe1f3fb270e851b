package org.fedsup.trainer;

import java.io.IOException;

/** The server refuses a request, and would refuse it again; the message is the server's. */
public final class RefusedException extends IOException {
    /** Status code of the answer. */
    public final int status;
    /** One of the protocol's codes. */
    public final String code;
    /** The server's time in milliseconds since 1970, or 0 if it told none. */
    final long serverTime;

    RefusedException(int status, String code, String message, long serverTime) {
        super(message);
        this.status = status;
        this.code = code;
        this.serverTime = serverTime;
    }
}
