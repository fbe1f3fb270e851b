package org.fedsup.trainer;

/**
 * An image and what it shows.
 *
 * @param image height * width * channels unsigned bytes, row by row
 * @param label number of a class
 */
public record Example(byte[] image, int label) {}
