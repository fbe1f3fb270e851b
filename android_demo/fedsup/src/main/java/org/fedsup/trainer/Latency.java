package org.fedsup.trainer;

import java.util.Arrays;

/**
 * Milliseconds of a part or of a subnet.
 *
 * @param infer of an inference
 * @param train of a step of training
 */
record Latency(double infer, double train) {
    Latency plus(Latency other) {
        return new Latency(infer + other.infer, train + other.train);
    }

    Latency times(Latency factors) {
        return new Latency(infer * factors.infer, train * factors.train);
    }

    /** Without the cost of a call; by noise, a part of little work may be faster than none. */
    Latency without(Latency call) {
        return new Latency(Math.max(0, infer - call.infer), Math.max(0, train - call.train));
    }

    static double median(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        int middle = sorted.length / 2;
        return sorted.length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    }
}
