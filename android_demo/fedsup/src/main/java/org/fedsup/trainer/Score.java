package org.fedsup.trainer;

/**
 * How a model does on some examples.
 *
 * @param examples how many there are
 * @param loss mean cross-entropy
 * @param accuracy share of right answers, 0 to 1
 */
public record Score(int examples, double loss, double accuracy) {}
