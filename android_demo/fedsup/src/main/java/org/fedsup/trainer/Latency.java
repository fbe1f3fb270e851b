package org.fedsup.trainer;

import java.util.Arrays;

/**
 * Latency of a part or of a subnet.
 *
 * @param infer milliseconds of an inference
 * @param train milliseconds of a training step
 */
record Latency(double infer, double train) {
    Latency plus(Latency other) {
        return new Latency(infer + other.infer, train + other.train);
    }

    Latency times(Latency factors) {
        return new Latency(infer * factors.infer, train * factors.train);
    }

    /**
     * Subtracts the cost of a call. The result is at least 0: because of noise, a small part may be
     * measured to be faster than a call that computes nothing.
     */
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
