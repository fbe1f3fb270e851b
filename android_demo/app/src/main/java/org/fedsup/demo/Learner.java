package org.fedsup.demo;

import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.util.Arrays;
import java.util.List;
import java.util.SortedMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.function.Consumer;

/**
 * The model, the drawings and what was learned from them, for as long as the process lives: a
 * screen that is turned finds its training going on. All work is done on one thread of its own, a
 * step of training at a time, so that answers come while it trains.
 */
public final class Learner implements Closeable {
    /** Folder of the updates that were written. */
    static final String UPDATES = "updates";
    /** The largest model that is opened. */
    static final int MOST_MODEL_BYTES = 64 << 20;

    /** Where a file's bytes come from. */
    public interface Source {
        byte[] read() throws IOException;
    }

    private interface Task {
        void run() throws IOException;
    }

    private static final int[] IMAGE_SHAPE = {DigitImage.SIDE, DigitImage.SIDE, 1};

    private final File folder;
    private final File pickedModel;
    private final Source builtInModel;
    private final Executor screen;
    /** Does everything, one task after the other. */
    final ExecutorService worker = Executors.newSingleThreadExecutor(
            task -> new Thread(task, "learner"));
    private final List<Consumer<LearnerState>> watchers = new CopyOnWriteArrayList<>();
    private volatile LearnerState state = LearnerState.LOADING;
    private volatile boolean cancelled;

    // What follows is the worker's alone.
    private Trainer trainer;
    private boolean builtIn = true;
    private SortedMap<String, float[]> received;
    private ExampleStore examples;
    private CheckpointStore checkpoints;
    private Checkpoint learned;
    private TrainingSession session;
    private Score before;
    private byte[] lookedAt;
    private String problem;

    /**
     * Opens the model that was picked last, or the one that came with the app.
     *
     * @param folder where everything is kept
     * @param builtInModel the app's own model
     * @param screen runs what watchers do, one after the other
     */
    public Learner(File folder, Source builtInModel, Executor screen) {
        this.folder = folder;
        this.builtInModel = builtInModel;
        this.screen = screen;
        pickedModel = new File(folder, "model.tflite");
        submit(this::open);
    }

    // ------------------------------------------------------------ what a screen asks for

    /** Calls a watcher with the state now and after each change. */
    public void watch(Consumer<LearnerState> watcher) {
        watchers.add(watcher);
        watcher.accept(state);
    }

    /** How things stand. */
    public LearnerState state() {
        return state;
    }

    /** Calls it no more. */
    public void unwatch(Consumer<LearnerState> watcher) {
        watchers.remove(watcher);
    }

    /** Asks what an image shows; null asks nothing more. */
    public void look(byte[] image) {
        submit(() -> lookedAt = image);
    }

    /** Adds a labelled drawing. */
    public void teach(Example example) {
        ask(() -> examples.add(example));
    }

    /** Takes the last drawing back. */
    public void unteach() {
        ask(() -> examples.removeNewest());
    }

    /** Trains on all drawings; calls {@code finished} on the screen however that ends. */
    public void train(Runnable finished) {
        cancelled = false;
        submit(() -> begin(true, finished));
    }

    /** Trains if the drawings are not those that it was trained on last. */
    public void trainOnNew(Runnable finished) {
        cancelled = false;
        submit(() -> begin(false, finished));
    }

    /** Ends the training after its step; what it learned so far stays. */
    public void cancel() {
        cancelled = true;
    }

    /** Makes the model as it came. */
    public void forget() {
        ask(() -> {
            refuseWhileTraining();
            trainer.restore(received);
            checkpoints.delete();
            learned = null;
        });
    }

    /** Deletes all drawings. */
    public void deleteExamples() {
        ask(() -> {
            refuseWhileTraining();
            examples.clear();
        });
    }

    /** Changes to another model; if it cannot be used, the present one stays. */
    public void openModel(Source source) {
        ask(() -> {
            refuseWhileTraining();
            byte[] file = source.read();
            Trainer opened = load(file);
            try {
                SafeFile.replace(pickedModel, out -> out.write(file));
            } catch (IOException error) {
                opened.close();
                throw error;
            }
            use(opened, false);
        });
    }

    /** Changes back to the model that came with the app. */
    public void openBuiltIn() {
        ask(() -> {
            refuseWhileTraining();
            use(load(builtInModel.read()), true);
            pickedModel.delete();
        });
    }

    /** Writes what was learned as an update file and hands it to {@code done} on the screen. */
    public void export(Consumer<File> done) {
        ask(() -> {
            if (learned == null) {
                throw new IOException("There is nothing to send yet: teach it some digits and train.");
            }
            File updates = new File(folder, UPDATES);
            updates.mkdirs();
            ModelMetadata model = trainer.metadata();
            UpdateFile update = UpdateFile.of(model, received, learned);
            // A name of its own, so that those of many phones can lie in one folder.
            String mark = new SafeTensors(null, update.delta()).fingerprint().substring(0, 12);
            File file = new File(updates, "update-" + mark + ".safetensors");
            SafeFile.replace(file, out -> update.write(out, model));
            screen.execute(() -> done.accept(file));
        });
    }

    /** Says what went wrong outside, or with null that the last sentence was read. */
    public void report(String sentence) {
        submit(() -> problem = sentence);
    }

    @Override
    public void close() {
        cancel();
        submit(() -> {
            if (trainer != null) {
                trainer.close();
                trainer = null;
            }
        });
        worker.shutdown();
    }

    // ------------------------------------------------------------- what the worker does

    /** A task that a person asked for: it makes what went wrong before old news. */
    private void ask(Task task) {
        submit(() -> {
            problem = null;
            if (trainer == null) {
                throw new IOException("There is no model yet.");
            }
            task.run();
        });
    }

    private void submit(Task task) {
        try {
            worker.execute(() -> {
                try {
                    task.run();
                } catch (IOException | RuntimeException | UnsatisfiedLinkError error) {
                    problem = error.getMessage() == null ? error.toString() : error.getMessage();
                }
                publish();
            });
        } catch (RejectedExecutionException closed) {
            // Nobody waits for it any more.
        }
    }

    private void publish() {
        boolean hasModel = trainer != null;
        boolean training = session != null;
        boolean hasLearned = learned != null;
        float[] losses =
                training ? session.losses() : hasLearned ? learned.losses() : new float[0];
        LearnerState published = new LearnerState(
                hasModel ? trainer.metadata() : null,
                builtIn,
                hasModel ? examples.all() : List.of(),
                training,
                training ? session.steps() : losses.length,
                losses,
                training ? before : hasLearned ? learned.before() : null,
                hasLearned ? learned.after() : null,
                hasModel && lookedAt != null ? trainer.infer(lookedAt) : null,
                problem);
        state = published;
        screen.execute(() -> watchers.forEach(watcher -> watcher.accept(published)));
    }

    private void open() throws IOException {
        String damage = null;
        if (pickedModel.exists()) {
            try {
                use(load(SafeFile.read(pickedModel, MOST_MODEL_BYTES)), false);
                return;
            } catch (UnusableFileException error) {
                damage = error.getMessage(); // The app's own is better than none.
            }
        }
        use(load(builtInModel.read()), true);
        problem = damage != null ? damage : problem;
    }

    private static Trainer load(byte[] file) throws IOException {
        Trainer opened = new Trainer(file, 1);
        int[] shape = opened.metadata().imageShape;
        if (!Arrays.equals(shape, IMAGE_SHAPE)) {
            opened.close();
            throw new UnusableFileException("This model takes images of " + shape[0] + "×" + shape[1]
                    + "×" + shape[2] + ", here you draw some of 8×8×1: choose a digits model.");
        }
        return opened;
    }

    private void use(Trainer opened, boolean isBuiltIn) throws IOException {
        if (trainer != null) {
            trainer.close();
        }
        trainer = opened;
        builtIn = isBuiltIn;
        problem = null;
        received = opened.weights();
        examples = new ExampleStore(folder, opened.metadata());
        checkpoints = new CheckpointStore(folder, opened.metadata());
        learned = null;
        try {
            examples.load();
        } finally {
            learned = checkpoints.read();
            if (learned != null) {
                opened.restore(learned.weights());
            }
        }
    }

    private void begin(boolean again, Runnable finished) {
        boolean isNew = trainer != null
                && (again || learned == null || learned.after().examples() != examples.all().size());
        if (!isNew || session != null || examples.all().isEmpty()) {
            screen.execute(finished);
            return;
        }
        List<Example> all = examples.all();
        SortedMap<String, float[]> now = trainer.weights();
        trainer.restore(received);
        before = trainer.evaluate(all);
        trainer.restore(now);
        session = new TrainingSession(trainer, all,
                TrainingSession.Plan.of(all.size(), trainer.batchSize()), System.nanoTime());
        problem = null;
        Checkpoint earlier = learned;
        submit(() -> trainOn(now, earlier, finished));
    }

    /** One step; the next is a task of its own, so that others come in between. */
    private void trainOn(SortedMap<String, float[]> start, Checkpoint earlier, Runnable finished)
            throws IOException {
        boolean more = false;
        try {
            more = !cancelled && session.step();
            float[] losses = session.losses();
            boolean astray = more && !Float.isFinite(losses[losses.length - 1]);
            boolean kept = losses.length == 0 || !more && session.epochEnded();
            if (!astray && !kept && (!more || session.epochEnded())) {
                Score after = trainer.evaluate(session.examples());
                astray = !Double.isFinite(after.loss());
                if (!astray) {
                    learned = new Checkpoint(trainer.weights(), before, after, losses);
                    checkpoints.write(learned);
                }
            }
            if (astray) {
                more = false;
                trainer.restore(start);
                learned = earlier;
                throw new IOException("Training went astray and was undone: delete odd drawings.");
            }
        } finally {
            if (more) {
                submit(() -> trainOn(start, earlier, finished));
            } else {
                session = null;
                screen.execute(finished);
            }
        }
    }

    private void refuseWhileTraining() throws IOException {
        if (session != null) {
            throw new IOException("It is training: stop that first.");
        }
    }
}
