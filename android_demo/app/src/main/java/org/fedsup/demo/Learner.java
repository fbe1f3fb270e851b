package org.fedsup.demo;

import java.io.Closeable;
import java.io.File;
import java.io.IOException;
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
 * The model, the drawings and what was learned from them, for as long as the process lives: a
 * screen that is turned finds its training going on. All work is done on one thread of its own, a
 * step of training at a time, so that answers come while it trains.
 */
public final class Learner implements Closeable {
    /** The largest model that is opened. */
    static final int MOST_MODEL_BYTES = 64 << 20;

    /** Where a file's bytes come from. */
    public interface Source {
        byte[] read() throws IOException;
    }

    private interface Task {
        void run() throws IOException;
    }

    private final File folder;
    private final File pickedModel;
    private final Source builtInModel;
    private final Executor screen;
    /** Does everything, one task after the other. */
    final ExecutorService worker = Executors.newSingleThreadExecutor(
            task -> new Thread(task, "learner"));
    private final List<Consumer<LearnerState>> watchers = new CopyOnWriteArrayList<>();
    private volatile LearnerState state = LearnerState.LOADING;
    /** Number of calls of cancel: a training ends when it has grown since the training was asked for. */
    private final AtomicInteger cancellations = new AtomicInteger();

    // What follows is the worker's alone.
    private Pupil pupil;
    private boolean builtIn = true;
    private Lesson lesson;
    private byte[] image;
    private float[] answer;
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

    /**
     * Classifies an image, and again whenever the model has changed; null ends that. While it
     * trains, the answer is renewed after each epoch.
     */
    public void classify(byte[] newImage) {
        submit(() -> infer(newImage));
    }

    /** Adds a labelled drawing. */
    public void teach(Example example) {
        ask(() -> pupil.examples().add(example));
    }

    /** Removes the drawing that was added last. */
    public void removeLast() {
        ask(() -> pupil.examples().removeNewest());
    }

    /** Trains on all drawings; calls {@code finished} on the screen however that ends. */
    public void train(Runnable finished) {
        int asked = cancellations.get();
        submit(() -> begin(true, asked, finished));
    }

    /** Trains if the drawings are not as many as those that it was trained on last. */
    public void trainOnNew(Runnable finished) {
        int asked = cancellations.get();
        submit(() -> begin(false, asked, finished));
    }

    /** Ends each training asked for so far after its step; what it learned so far stays. */
    public void cancel() {
        cancellations.incrementAndGet();
    }

    /** Makes the model as it came. */
    public void forget() {
        askIdle(() -> {
            pupil.forget();
            infer(image);
        });
    }

    /** Deletes all drawings. */
    public void deleteExamples() {
        askIdle(() -> pupil.examples().clear());
    }

    /** Changes to another model; if it cannot be used, the present one stays. */
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

    /** Changes back to the model that came with the app. */
    public void openBuiltIn() {
        askIdle(() -> {
            Pupil opened = new Pupil(folder, builtInModel.read());
            pickedModel.delete();
            use(opened, true);
        });
    }

    /** Writes what was learned as an update file and hands it to {@code done} on the screen. */
    public void export(Consumer<File> done) {
        ask(() -> {
            File file = pupil.export();
            screen.execute(() -> done.accept(file));
        });
    }

    /**
     * Measures the parts of a space's subnets on this device, a file after the other, and hands the
     * latency table to {@code done} on the screen.
     *
     * @param parts writes what fedsup profile --parts wrote
     * @param machine description of this device
     */
    public void measure(SafeFile.Content parts, String machine, Consumer<File> done) {
        askIdle(() -> {
            File copy = new File(folder, "parts.zip");
            SafeFile.replace(copy, parts);
            PartModels opened = new PartModels(copy);
            LatencyMeasurement measurement = new LatencyMeasurement(opened);
            submit(() -> measureOn(opened, measurement, machine, done));
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
            if (pupil != null) {
                pupil.close();
                pupil = null;
            }
        });
        worker.shutdown();
    }

    // ------------------------------------------------------------- what the worker does

    /** Runs a task that a person asked for; clears the previous error. */
    private void ask(Task task) {
        submit(() -> {
            problem = null;
            if (pupil == null) {
                throw new IOException("There is no model yet.");
            }
            task.run();
        });
    }

    /** One that cannot be done while it trains. */
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
            // Nobody waits for it any more.
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
                opened = new Pupil(folder, SafeFile.read(pickedModel, MOST_MODEL_BYTES));
            } catch (UnusableFileException error) {
                damage = error.getMessage(); // The app's own is better than none.
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

    /** Answers what an image shows, if there is one, and keeps the image if that is possible. */
    private void infer(byte[] newImage) {
        image = null;
        answer = null;
        if (newImage != null && pupil != null) {
            answer = pupil.trainer().infer(newImage);
        }
        image = newImage;
    }

    /** Measures one file; the next is a task of its own, so that answers come in between. */
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
        lesson = new Lesson(pupil, System.nanoTime());
        submit(() -> trainOn(asked, finished));
    }

    /** One step; the next is a task of its own, so that others come in between. */
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
