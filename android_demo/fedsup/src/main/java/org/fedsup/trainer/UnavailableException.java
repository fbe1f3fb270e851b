package org.fedsup.trainer;

import java.io.IOException;
import org.jspecify.annotations.Nullable;

/** Thrown when the server is not available; keep what was to be sent and send it again later. */
public final class UnavailableException extends IOException {
    /** Seconds after which to retry, as the server asked, or -1 if it did not say. */
    public final int seconds;

    UnavailableException(String sentence, int seconds, @Nullable Throwable cause) {
        super(sentence, cause);
        this.seconds = seconds;
    }
}
