package org.fedsup.trainer;

import java.util.SortedMap;

/**
 * Result of training a model on this device.
 *
 * @param weights values of all variables by name
 * @param before score of the original model on the examples that it was then trained on
 * @param after score with these weights on the same examples
 * @param losses loss of each step of the last training run
 */
public record Checkpoint(
        SortedMap<String, float[]> weights, Score before, Score after, float[] losses) {}
