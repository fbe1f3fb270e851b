package org.fedsup.trainer;

import java.io.IOException;

/**
 * Thrown when the device cannot take part until a person changes something; the message says what
 * to change.
 */
public final class FederationException extends IOException {
    /**
     * Creates an exception.
     *
     * @param sentence what was expected, what was received and what to do
     */
    public FederationException(String sentence) {
        super(sentence);
    }

    /**
     * Creates an exception for a request that failed.
     *
     * @param sentence what was expected, what was received and what to do
     * @param cause the error that the request failed with
     */
    public FederationException(String sentence, Throwable cause) {
        super(sentence, cause);
    }
}
