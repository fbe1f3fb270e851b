package org.fedsup.demo;

import java.io.IOException;
import java.util.SortedMap;
import org.fedsup.trainer.Checkpoint;
import org.fedsup.trainer.Score;
import org.fedsup.trainer.Trainer;
import org.fedsup.trainer.TrainingRun;

/** A training run of a pupil on all its drawings, saved after each epoch and undone on failure. */
final class Lesson {
    private final Pupil pupil;
    private final TrainingRun run;
    private final Score before;
    private final SortedMap<String, float[]> start;
    private final Checkpoint earlier;
    private boolean over;

    /** Prepares training on at least one drawing; the seed determines their order. */
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
     * @throws IOException if the result could not be saved, in which case training continues, or if
     *     training diverged, in which case it is over
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
        // The last epoch was saved with its last step already, before it was known to be the last.
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

    /** Returns whether the last step completed an epoch. */
    boolean epochEnded() {
        return run.epochEnded();
    }

    int steps() {
        return run.steps();
    }

    /** Returns the loss of each step so far. */
    float[] losses() {
        return run.losses();
    }

    /** Returns the score of the original model. */
    Score before() {
        return before;
    }

    private void undo() throws IOException {
        over = true;
        pupil.undo(start, earlier);
        throw new IOException("Training diverged and was undone: delete odd drawings.");
    }
}
