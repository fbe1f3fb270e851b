package org.fedsup.trainer;

import java.io.IOException;

/** Thrown for a file that is not as expected; the message tells a person what to do. */
public final class UnusableFileException extends IOException {
    /**
     * Creates an exception for a file.
     *
     * @param sentence what was expected, what was found and what to do
     */
    public UnusableFileException(String sentence) {
        super(sentence);
    }

    /**
     * Creates an exception for a file that could not be read.
     *
     * @param sentence what was expected, what was found and what to do
     * @param cause the error that reading failed with
     */
    public UnusableFileException(String sentence, Throwable cause) {
        super(sentence, cause);
    }
}
