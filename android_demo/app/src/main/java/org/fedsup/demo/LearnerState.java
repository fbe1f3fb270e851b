package org.fedsup.demo;

import java.util.List;
import org.fedsup.trainer.Example;
import org.fedsup.trainer.ModelMetadata;
import org.fedsup.trainer.Score;

/**
 * Snapshot of a {@link Learner} for a screen to show.
 *
 * @param model the model in use, or null if there is none
 * @param builtIn whether it is the one that came with the app
 * @param drawings the labelled drawings, oldest first
 * @param training whether it is being trained
 * @param steps the number of steps of the current training run, or of the last one
 * @param losses loss of each step so far
 * @param before score of the original model, or null if it was never trained
 * @param after score of the trained model on the same drawings, or null
 * @param answer probability of each class for the current image, or null
 * @param problem a sentence on what went wrong last, or null
 */
public record LearnerState(
        ModelMetadata model,
        boolean builtIn,
        List<Example> drawings,
        boolean training,
        int steps,
        float[] losses,
        Score before,
        Score after,
        float[] answer,
        String problem) {
    static final LearnerState LOADING =
            new LearnerState(null, true, List.of(), false, 0, new float[0], null, null, null, null);

    /** Returns the number of drawings of each class. */
    public int[] counts() {
        int[] counts = new int[model == null ? 0 : model.classNames.size()];
        drawings.forEach(drawing -> counts[drawing.label()]++);
        return counts;
    }
}
