package org.fedsup.demo;

/**
 * What a screen shows of a {@link Learner} at one moment.
 *
 * @param model the model in use, or null while none is
 * @param builtIn whether it is the one that came with the app
 * @param counts number of drawings of each class
 * @param training whether it is being trained
 * @param steps steps of the training, or of the last one
 * @param losses loss of each step so far
 * @param before score of the model as it came, or null if it was never trained
 * @param after score of the model as it is now, on the same drawings, or null
 * @param answer probability of each class for what was looked at, or null
 * @param problem one sentence on what went wrong last, or null
 */
public record LearnerState(
        ModelMetadata model,
        boolean builtIn,
        int[] counts,
        boolean training,
        int steps,
        float[] losses,
        Score before,
        Score after,
        float[] answer,
        String problem) {
    static final LearnerState LOADING =
            new LearnerState(null, true, new int[0], false, 0, new float[0], null, null, null, null);

    /** Number of drawings. */
    public int examples() {
        int sum = 0;
        for (int count : counts) {
            sum += count;
        }
        return sum;
    }
}
