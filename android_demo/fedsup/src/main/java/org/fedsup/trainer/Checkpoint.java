package org.fedsup.trainer;

import java.util.SortedMap;

/**
 * What a model has learned on this device.
 *
 * @param weights every variable by name
 * @param before the score of the model as it came, on the examples that it was then trained on
 * @param after the score with these weights on the same examples
 * @param losses loss of each step of the last training
 */
public record Checkpoint(
        SortedMap<String, float[]> weights, Score before, Score after, float[] losses) {}
