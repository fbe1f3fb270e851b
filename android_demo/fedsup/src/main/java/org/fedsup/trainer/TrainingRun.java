package org.fedsup.trainer;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;

/**
 * One training on all examples, a batch a call, so that whoever runs it can show, save, do
 * something else or stop in between.
 */
public final class TrainingRun {
    /**
     * How long and how fast to train.
     *
     * @param epochs passes over the examples
     * @param learningRate small, since the subnet is trained already and must not forget the
     *     classes that this person has not drawn
     * @param part what to move
     */
    public record Plan(int epochs, float learningRate, Trainer.Part part) {
        private static final int STEPS = 40;
        private static final int LEAST_EPOCHS = 5;
        private static final int MOST_EPOCHS = 20;

        /**
         * Makes a plan that is sensible for this many examples.
         *
         * @param examples how many there are, from 1
         * @param batchSize the most examples of a step, see {@link Trainer#batchSize}
         * @return the plan, which moves every variable
         */
        public static Plan of(int examples, int batchSize) {
            int epochs = (int) Math.ceil((double) STEPS / batches(examples, batchSize));
            return new Plan(Math.max(LEAST_EPOCHS, Math.min(MOST_EPOCHS, epochs)), 0.01f, Trainer.Part.ALL);
        }
    }

    private final Trainer trainer;
    private final List<Example> examples;
    private final Plan plan;
    private final Random random;
    private final int batches;
    private final float[] losses;
    private int done;

    /**
     * Prepares a training.
     *
     * @param trainer the model
     * @param examples at least one
     * @param plan how long and how fast to train
     * @param seed decides the order of the examples
     */
    public TrainingRun(Trainer trainer, List<Example> examples, Plan plan, long seed) {
        if (examples.isEmpty()) {
            throw new IllegalArgumentException("Expected at least one example, received none.");
        }
        this.trainer = trainer;
        this.examples = new ArrayList<>(examples);
        this.plan = plan;
        random = new Random(seed);
        batches = batches(examples.size(), trainer.batchSize());
        losses = new float[plan.epochs() * batches];
    }

    /**
     * Trains on the next batch.
     *
     * @return false if there was none left
     */
    public boolean step() {
        if (done == losses.length) {
            return false;
        }
        int batch = done % batches;
        if (batch == 0) {
            Collections.shuffle(examples, random);
        }
        // Batches of nearly the same size: the statistics of a last one of 1 would be a poor guess.
        int begin = (int) ((long) examples.size() * batch / batches);
        int end = (int) ((long) examples.size() * (batch + 1) / batches);
        losses[done++] = trainer.train(examples.subList(begin, end), plan.learningRate(), plan.part());
        return true;
    }

    /**
     * Tells whether the last step ended a pass over the examples.
     *
     * @return whether it did
     */
    public boolean epochEnded() {
        return done > 0 && done % batches == 0;
    }

    /**
     * Counts the steps that the training has.
     *
     * @return their number
     */
    public int steps() {
        return losses.length;
    }

    /**
     * Lists the losses so far.
     *
     * @return loss of each step, before it
     */
    public float[] losses() {
        return Arrays.copyOf(losses, done);
    }

    /**
     * Lists what is trained on.
     *
     * @return the examples, in the order of the present epoch
     */
    public List<Example> examples() {
        return examples;
    }

    private static int batches(int examples, int batchSize) {
        return (examples + batchSize - 1) / batchSize;
    }
}
