package org.fedsup.demo;

import java.io.IOException;

/** A file that is not what was expected; the message is a sentence that a person can act on. */
public final class UnusableFileException extends IOException {
    UnusableFileException(String sentence) {
        super(sentence);
    }

    UnusableFileException(String sentence, Throwable cause) {
        super(sentence, cause);
    }
}
