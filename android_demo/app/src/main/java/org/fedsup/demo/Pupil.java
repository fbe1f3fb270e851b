package org.fedsup.demo;

import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.util.Arrays;
import java.util.SortedMap;
import org.fedsup.trainer.Checkpoint;
import org.fedsup.trainer.CheckpointStore;
import org.fedsup.trainer.ModelMetadata;
import org.fedsup.trainer.SafeFile;
import org.fedsup.trainer.Score;
import org.fedsup.trainer.Trainer;
import org.fedsup.trainer.UnusableFileException;
import org.fedsup.trainer.UpdateFile;

/** A model, the drawings to teach it, and what it has learned from them. Not thread-safe. */
final class Pupil implements Closeable {
    /** Name of the folder for exported updates. */
    static final String UPDATES = "updates";

    static final int[] IMAGE_SHAPE = {DigitImage.SIDE, DigitImage.SIDE, 1};

    private final File folder;
    private final Trainer trainer;
    private final SortedMap<String, float[]> received;
    private final ExampleStore examples;
    private final CheckpointStore checkpoints;
    private Checkpoint learned;

    /**
     * Loads a model in its original state.
     *
     * @throws UnusableFileException if it is not a model, or its images are not of this app's shape
     */
    Pupil(File folder, byte[] model) throws UnusableFileException {
        this.folder = folder;
        int[] shape = ModelMetadata.read(model).imageShape;
        if (!Arrays.equals(shape, IMAGE_SHAPE)) {
            throw new UnusableFileException("This model takes images of " + shape[0] + "×" + shape[1]
                    + "×" + shape[2] + ", here you draw some of 8×8×1: choose a digits model.");
        }
        trainer = new Trainer(model, 1);
        received = trainer.weights();
        examples = new ExampleStore(folder, trainer.metadata());
        checkpoints = new CheckpointStore(folder, trainer.metadata());
    }

    /**
     * Reads the stored drawings and checkpoint.
     *
     * @throws IOException if one of them could not be read; the pupil then goes without it
     */
    void remember() throws IOException {
        try {
            examples.load();
        } finally {
            learned = checkpoints.read();
            if (learned != null) {
                trainer.restore(learned.weights());
            }
        }
    }

    Trainer trainer() {
        return trainer;
    }

    ExampleStore examples() {
        return examples;
    }

    /** Returns what the model has learned, or null. */
    Checkpoint learned() {
        return learned;
    }

    /** Returns the score of the original model on all drawings. */
    Score scoreAsItCame() {
        SortedMap<String, float[]> now = trainer.weights();
        trainer.restore(received);
        try {
            return trainer.evaluate(examples.all());
        } finally {
            trainer.restore(now);
        }
    }

    /** Sets and stores what the trainer has learned. */
    void keep(Checkpoint checkpoint) throws IOException {
        learned = checkpoint;
        checkpoints.write(checkpoint);
    }

    /** Goes back to an earlier state; {@code earlier} is its checkpoint, or null if it had none. */
    void undo(SortedMap<String, float[]> weights, Checkpoint earlier) throws IOException {
        trainer.restore(weights);
        learned = earlier;
        if (earlier == null) {
            checkpoints.delete();
        } else {
            checkpoints.write(earlier);
        }
    }

    /** Resets the model to its original state. */
    void forget() {
        trainer.restore(received);
        checkpoints.delete();
        learned = null;
    }

    /** Writes what the model has learned to an update file, whose name is unique to it. */
    File export() throws IOException {
        if (learned == null) {
            throw new IOException("There is nothing to send yet: teach it some digits and train.");
        }
        ModelMetadata model = trainer.metadata();
        UpdateFile update = UpdateFile.of(model, received, learned);
        String mark = update.fingerprint().substring(0, 12);
        File updates = new File(folder, UPDATES);
        updates.mkdirs();
        File file = new File(updates, "update-" + mark + ".safetensors");
        SafeFile.replace(file, out -> update.write(out, model));
        return file;
    }

    @Override
    public void close() {
        trainer.close();
    }
}
