package org.fedsup.demo;

import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import org.fedsup.trainer.Checkpoint;
import org.fedsup.trainer.Example;
import org.fedsup.trainer.LatencyMeasurement;
import org.fedsup.trainer.PartModels;
import org.fedsup.trainer.SafeFile;
import org.fedsup.trainer.UnusableFileException;

/**
 * Holds the model, the drawings and what was learned from them for the lifetime of the process, so
 * that training continues when the screen is rotated. All work runs on one background thread, one
 * training step at a time, so that the app can answer while it trains.
 */
public final class Learner implements Closeable {
    /** Maximum size of a model's file. */
    static final int MAX_MODEL_BYTES = 64 << 20;

    /** Source of a file's bytes. */
    public interface Source {
        byte[] read() throws IOException;
    }

    /** Place to write a file's bytes to. */
    public interface Target {
        OutputStream open() throws IOException;
    }

    private interface Task {
        void run() throws IOException;
    }

    private final File folder;
    private final File pickedModel;
    private final File pickedParts;
    private final Source builtInModel;
    private final Executor screen;
    /** Runs all tasks, one after the other. */
    final ExecutorService worker = Executors.newSingleThreadExecutor(
            task -> new Thread(task, "learner"));
    private final List<Consumer<LearnerState>> watchers = new CopyOnWriteArrayList<>();
    private volatile LearnerState state = LearnerState.LOADING;
    /** Number of calls of cancel; training stops if it has grown since training was requested. */
    private final AtomicInteger cancellations = new AtomicInteger();

    // The following fields are used by the worker only.
    private Pupil pupil;
    private boolean builtIn = true;
    private Lesson lesson;
    private byte[] image;
    private float[] answer;
    private String problem;

    /**
     * Opens the model that was picked last, or the one that came with the app.
     *
     * @param folder the folder for all files
     * @param builtInModel the app's own model
     * @param screen runs the watchers, one after the other
     */
    public Learner(File folder, Source builtInModel, Executor screen) {
        this.folder = folder;
        this.builtInModel = builtInModel;
        this.screen = screen;
        pickedModel = new File(folder, "model.tflite");
        pickedParts = new File(folder, "parts.zip");
        submit(this::open);
    }

    // ------------------------------------------------------------ requests of a screen

    /** Calls a watcher with the current state, and again after each change. */
    public void watch(Consumer<LearnerState> watcher) {
        watchers.add(watcher);
        watcher.accept(state);
    }

    /** Returns the current state. */
    public LearnerState state() {
        return state;
    }

    /** Stops calling a watcher. */
    public void unwatch(Consumer<LearnerState> watcher) {
        watchers.remove(watcher);
    }

    /**
     * Classifies an image, and again whenever the model changes; null stops this. During training,
     * the answer is updated after each epoch.
     */
    public void classify(byte[] newImage) {
        submit(() -> infer(newImage));
    }

    /** Adds a labelled drawing. */
    public void teach(Example example) {
        ask(() -> loaded().examples().add(example));
    }

    /** Removes the newest drawing. */
    public void removeLast() {
        ask(() -> loaded().examples().removeNewest());
    }

    /** Trains on all drawings; always runs {@code finished} on the screen at the end. */
    public void train(Runnable finished) {
        int asked = cancellations.get();
        submit(() -> begin(true, asked, finished));
    }

    /** Trains if the number of drawings differs from that of the last training run. */
    public void trainOnNew(Runnable finished) {
        int asked = cancellations.get();
        submit(() -> begin(false, asked, finished));
    }

    /** Stops all training requested so far after its current step; what it learned is kept. */
    public void cancel() {
        cancellations.incrementAndGet();
    }

    /** Resets the model to its original state. */
    public void forget() {
        askIdle(() -> {
            loaded().forget();
            infer(image);
        });
    }

    /** Deletes all drawings. */
    public void deleteExamples() {
        askIdle(() -> loaded().examples().clear());
    }

    /** Switches to another model; if it cannot be used, the current one stays. */
    public void openModel(Source source) {
        askIdle(() -> {
            byte[] file = source.read();
            Pupil opened = new Pupil(folder, file);
            try {
                SafeFile.replace(pickedModel, out -> out.write(file));
            } catch (IOException error) {
                opened.close();
                throw error;
            }
            use(opened, false);
        });
    }

    /** Switches back to the model that came with the app. */
    public void openBuiltIn() {
        askIdle(() -> {
            Pupil opened = new Pupil(folder, builtInModel.read());
            pickedModel.delete();
            use(opened, true);
        });
    }

    /** Writes what was learned to an update file and passes it to {@code done} on the screen. */
    public void export(Consumer<File> done) {
        ask(() -> {
            File file = loaded().export();
            screen.execute(() -> done.accept(file));
        });
    }

    /**
     * Measures the parts of a search space's subnets on this device, one file at a time, and passes
     * the latency table to {@code done} on the screen.
     *
     * @param parts writes the content of a file from {@code fedsup profile --parts}
     * @param machine a description of this device
     */
    public void measure(SafeFile.Content parts, String machine, Consumer<File> done) {
        askIdle(() -> {
            SafeFile.replace(pickedParts, parts);
            try {
                PartModels opened = new PartModels(pickedParts);
                LatencyMeasurement measurement = new LatencyMeasurement(opened);
                submit(() -> measureOn(opened, measurement, machine, done));
            } catch (UnusableFileException error) {
                pickedParts.delete();
                throw error;
            }
        });
    }

    /**
     * Copies an exported update to another place and runs {@code done} on the screen.
     *
     * @param update the file that {@link #export} passed on
     * @param target opens the other place
     */
    public void copy(File update, Target target, Runnable done) {
        ask(() -> {
            try (OutputStream out = target.open()) {
                out.write(SafeFile.read(update, MAX_MODEL_BYTES));
            } catch (IOException | RuntimeException error) {
                throw new IOException("The update could not be saved (" + error.getMessage()
                        + "): choose another place.", error);
            }
            screen.execute(done);
        });
    }

    /** Reports a problem from outside; null dismisses the last one. */
    public void report(String sentence) {
        submit(() -> problem = sentence);
    }

    @Override
    public void close() {
        cancel();
        submit(() -> {
            if (pupil != null) {
                pupil.close();
                pupil = null;
            }
        });
        worker.shutdown();
    }

    // ------------------------------------------------------------- work of the worker

    /** Runs a task that the user requested; clears the previous problem. */
    private void ask(Task task) {
        submit(() -> {
            problem = null;
            task.run();
        });
    }

    private Pupil loaded() throws IOException {
        if (pupil == null) {
            throw new IOException("There is no model yet: open one.");
        }
        return pupil;
    }

    /** Runs a task that the user requested and that is not possible during training. */
    private void askIdle(Task task) {
        ask(() -> {
            if (lesson != null) {
                throw new IOException("It is training: stop that first.");
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
            // Nobody waits for the result any more.
        }
    }

    private void publish() {
        Checkpoint learned = pupil == null ? null : pupil.learned();
        float[] losses =
                lesson != null ? lesson.losses() : learned != null ? learned.losses() : new float[0];
        LearnerState published = new LearnerState(
                pupil == null ? null : pupil.trainer().metadata(),
                builtIn,
                pupil == null ? List.of() : pupil.examples().all(),
                lesson != null,
                lesson != null ? lesson.steps() : losses.length,
                losses,
                lesson != null ? lesson.before() : learned != null ? learned.before() : null,
                learned != null ? learned.after() : null,
                answer,
                problem);
        state = published;
        screen.execute(() -> watchers.forEach(watcher -> watcher.accept(published)));
    }

    private void open() throws IOException {
        String damage = null;
        Pupil opened = null;
        if (pickedModel.exists()) {
            try {
                opened = new Pupil(folder, SafeFile.read(pickedModel, MAX_MODEL_BYTES));
            } catch (IOException error) {
                damage = error.getMessage(); // The app's own model is better than none.
            }
        }
        boolean isPicked = opened != null;
        use(isPicked ? opened : new Pupil(folder, builtInModel.read()), !isPicked);
        problem = damage;
    }

    private void use(Pupil opened, boolean isBuiltIn) throws IOException {
        if (pupil != null) {
            pupil.close();
        }
        pupil = opened;
        builtIn = isBuiltIn;
        try {
            pupil.remember();
        } finally {
            infer(image);
        }
    }

    /** Classifies an image if it is not null, and keeps it unless that fails. */
    private void infer(byte[] newImage) {
        image = null;
        answer = null;
        if (newImage != null && pupil != null) {
            answer = pupil.trainer().infer(newImage);
        }
        image = newImage;
    }

    /** Measures one file; the next one is a separate task, so that others can run in between. */
    private void measureOn(
            PartModels parts, LatencyMeasurement measurement, String machine, Consumer<File> done)
            throws IOException {
        boolean over = true; // Also if the next line fails.
        try {
            over = !measurement.step();
            if (over) {
                File tables = new File(folder, Pupil.UPDATES);
                tables.mkdirs();
                File table = new File(tables, "latency.json");
                byte[] text = measurement.table(machine).getBytes(StandardCharsets.UTF_8);
                SafeFile.replace(table, out -> out.write(text));
                screen.execute(() -> done.accept(table));
            } else {
                submit(() -> measureOn(parts, measurement, machine, done));
            }
        } finally {
            if (over) {
                parts.close();
                pickedParts.delete();
            }
        }
    }

    private void begin(boolean again, int asked, Runnable finished) {
        int drawings = pupil == null ? 0 : pupil.examples().all().size();
        boolean known = pupil != null && pupil.learned() != null
                && pupil.learned().after().examples() == drawings;
        boolean cancelled = cancellations.get() != asked;
        if (drawings == 0 || lesson != null || cancelled || known && !again) {
            screen.execute(finished);
            return;
        }
        problem = null;
        try {
            lesson = new Lesson(pupil, System.nanoTime());
        } catch (RuntimeException error) {
            screen.execute(finished);
            throw error;
        }
        submit(() -> trainOn(asked, finished));
    }

    /** Trains one step; the next one is a separate task, so that others can run in between. */
    private void trainOn(int asked, Runnable finished) throws IOException {
        Lesson running = lesson;
        try {
            running.step(cancellations.get() != asked);
        } finally {
            if (running.isOver()) {
                lesson = null;
                screen.execute(finished);
            } else {
                submit(() -> trainOn(asked, finished));
            }
            if (running.isOver() || running.epochEnded()) {
                infer(image);
            }
        }
    }
}
