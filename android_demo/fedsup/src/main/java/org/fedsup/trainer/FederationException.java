package org.fedsup.trainer;

import java.io.IOException;

/** The device cannot take part until a person changes something; the message says what. */
public final class FederationException extends IOException {
    /**
     * Makes the error.
     *
     * @param sentence what was expected, what was received and what to do
     */
    public FederationException(String sentence) {
        super(sentence);
    }

    /**
     * Makes the error of a request that failed.
     *
     * @param sentence what was expected, what was received and what to do
     * @param cause the error of the request
     */
    public FederationException(String sentence, Throwable cause) {
        super(sentence, cause);
    }
}
