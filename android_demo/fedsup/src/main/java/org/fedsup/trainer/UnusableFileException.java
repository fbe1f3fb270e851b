package org.fedsup.trainer;

import java.io.IOException;

/** A file that is not what was expected; the message is a sentence that a person can act on. */
public final class UnusableFileException extends IOException {
    /**
     * Makes the error of a file.
     *
     * @param sentence what was expected, what was found and what to do
     */
    public UnusableFileException(String sentence) {
        super(sentence);
    }

    /**
     * Makes the error of a file whose reading failed.
     *
     * @param sentence what was expected, what was found and what to do
     * @param cause the error of the reading
     */
    public UnusableFileException(String sentence, Throwable cause) {
        super(sentence, cause);
    }
}
