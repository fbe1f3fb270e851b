package org.fedsup.trainer;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;

/**
 * A training run over all examples, one batch per call, so that the caller can show progress, save
 * or stop between batches.
 */
public final class TrainingRun {
    /**
     * Settings of a training run.
     *
     * @param epochs the number of passes over the examples
     * @param learningRate the learning rate; it should be small, because the subnet is already
     *     trained and must not forget classes that this person has not drawn
     * @param part the variables to update
     */
    public record Plan(int epochs, float learningRate, Trainer.Part part) {
        private static final int STEPS = 40;
        private static final int MIN_EPOCHS = 5;
        private static final int MAX_EPOCHS = 20;

        /**
         * Returns a sensible plan for a given number of examples.
         *
         * @param examples the number of examples, at least 1
         * @param batchSize the maximum number of examples in a step, see {@link Trainer#batchSize}
         * @return the plan, which updates all trainable variables
         */
        public static Plan of(int examples, int batchSize) {
            int epochs = (int) Math.ceil((double) STEPS / batches(examples, batchSize));
            return new Plan(Math.max(MIN_EPOCHS, Math.min(MAX_EPOCHS, epochs)), 0.01f, Trainer.Part.ALL);
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
     * Prepares a training run.
     *
     * @param trainer the model to train
     * @param examples at least one example
     * @param plan the settings of the run
     * @param seed the seed of the examples' order
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
     * @return false if there was no batch left
     */
    public boolean step() {
        if (done == losses.length) {
            return false;
        }
        int batch = done % batches;
        if (batch == 0) {
            Collections.shuffle(examples, random);
        }
        // Batches of nearly equal size: statistics of a single example would be a poor estimate.
        int begin = (int) ((long) examples.size() * batch / batches);
        int end = (int) ((long) examples.size() * (batch + 1) / batches);
        losses[done++] = trainer.train(examples.subList(begin, end), plan.learningRate(), plan.part());
        return true;
    }

    /**
     * Returns whether the last step completed an epoch.
     *
     * @return true if it did
     */
    public boolean epochEnded() {
        return done > 0 && done % batches == 0;
    }

    /**
     * Returns the total number of steps of the run.
     *
     * @return the number of steps
     */
    public int steps() {
        return losses.length;
    }

    /**
     * Returns the losses so far.
     *
     * @return for each step done, the loss before it
     */
    public float[] losses() {
        return Arrays.copyOf(losses, done);
    }

    /**
     * Returns the training examples.
     *
     * @return the examples, in the order of the current epoch
     */
    public List<Example> examples() {
        return examples;
    }

    private static int batches(int examples, int batchSize) {
        return (examples + batchSize - 1) / batchSize;
    }
}
