package org.fedsup.trainer;

import java.io.IOException;
import org.jspecify.annotations.Nullable;

/** The server does not serve now: what was to be sent is kept and sent again later. */
public final class UnavailableException extends IOException {
    /** Seconds after which the server wants to be asked again, or -1 if it told none. */
    public final int seconds;

    UnavailableException(String sentence, int seconds, @Nullable Throwable cause) {
        super(sentence, cause);
        this.seconds = seconds;
    }
}
