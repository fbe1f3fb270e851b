package org.fedsup.demo;

import java.io.IOException;
import java.util.SortedMap;
import org.fedsup.trainer.Checkpoint;
import org.fedsup.trainer.Score;
import org.fedsup.trainer.Trainer;
import org.fedsup.trainer.TrainingRun;

/** One training of a pupil on all its drawings, kept after each epoch and undone if it fails. */
final class Lesson {
    private final Pupil pupil;
    private final TrainingRun run;
    private final Score before;
    private final SortedMap<String, float[]> start;
    private final Checkpoint earlier;
    private boolean over;

    /** Prepares a training on at least one drawing; the seed decides their order. */
    Lesson(Pupil pupil, long seed) {
        this.pupil = pupil;
        Trainer trainer = pupil.trainer();
        int count = pupil.examples().all().size();
        run = new TrainingRun(trainer, pupil.examples().all(),
                TrainingRun.Plan.of(count, trainer.batchSize()), seed);
        before = pupil.scoreAsItCame();
        start = trainer.weights();
        earlier = pupil.learned();
    }

    /**
     * Trains on the next batch, or ends.
     *
     * @param stop whether to end now; what was learned so far is kept
     * @throws IOException if something could not be kept, whereupon training goes on, or went
     *     astray, whereupon it is over
     */
    void step(boolean stop) throws IOException {
        over = true; // Also if the next line fails.
        over = stop || !run.step();
        float[] losses = run.losses();
        if (losses.length == 0) {
            return;
        }
        if (!Float.isFinite(losses[losses.length - 1])) {
            undo();
        }
        // The last epoch was kept with its last step, before it was known to be the last.
        if (over != run.epochEnded()) {
            Score after = pupil.trainer().evaluate(run.examples());
            if (!Double.isFinite(after.loss())) {
                undo();
            }
            pupil.keep(new Checkpoint(pupil.trainer().weights(), before, after, losses));
        }
    }

    boolean isOver() {
        return over;
    }

    /** Whether the last step ended a pass over the drawings. */
    boolean epochEnded() {
        return run.epochEnded();
    }

    int steps() {
        return run.steps();
    }

    /** Loss of each step so far. */
    float[] losses() {
        return run.losses();
    }

    /** Score of the model as it came. */
    Score before() {
        return before;
    }

    private void undo() throws IOException {
        over = true;
        pupil.undo(start, earlier);
        throw new IOException("Training went astray and was undone: delete odd drawings.");
    }
}
