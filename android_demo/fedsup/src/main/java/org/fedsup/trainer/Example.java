package org.fedsup.trainer;

/**
 * A labelled image.
 *
 * @param image height * width * channels unsigned bytes, row by row
 * @param label index of the image's class
 */
public record Example(byte[] image, int label) {}
