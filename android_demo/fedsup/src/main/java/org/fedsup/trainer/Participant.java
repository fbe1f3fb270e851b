package org.fedsup.trainer;

import java.io.File;
import java.io.IOException;
import java.util.List;
import java.util.SortedMap;
import java.util.function.BooleanSupplier;
import org.json.JSONException;
import org.json.JSONObject;
import org.jspecify.annotations.Nullable;

/**
 * A device that takes part in federated learning. A visit sends an update that is still waiting, or
 * asks for a task, downloads its model, trains it on the device's own examples and sends the change
 * in its weights; the examples stay on the device. The state is kept in a folder, so that a device
 * that is killed at any time resumes with its next visit. Not thread-safe; do not use it on the
 * main thread.
 */
public final class Participant {
    // Seconds until the next visit after an update that was refused or not sent.
    private static final int WAIT_SECONDS = 60;

    /** The device's own examples. */
    public interface Examples {
        /**
         * Returns the examples for a model.
         *
         * @param model the model's metadata, with the shape of its images and its classes
         * @return the examples; empty if there are none for this model
         * @throws IOException if the examples cannot be read
         */
        List<Example> of(ModelMetadata model) throws IOException;
    }

    /** Outcome of a visit. */
    public enum Event {
        /** There was no task. */
        WAITS,
        /** There was a task, but no examples to train on. */
        NEEDS_EXAMPLES,
        /** An update was accepted. */
        SENT,
        /** An update was refused for good and has been deleted. */
        REFUSED,
        /** The visit was stopped; the next one sends the update if it was finished, or trains anew. */
        STOPPED
    }

    /**
     * The result of a visit.
     *
     * @param event the outcome
     * @param waitSeconds seconds until the next visit
     * @param round the task's round, or -1 if there was no task
     * @param before score of the received model on the device's examples, or null
     * @param after score after training, or null
     * @param message the reason why an update was refused, or empty
     */
    public record Visit(Event event, int waitSeconds, int round, @Nullable Score before,
            @Nullable Score after, String message) {}

    private final Federation federation;
    private final FederationFolder folder;
    private final JSONObject fields;
    private final int threads;

    /**
     * Prepares a device; sends nothing yet.
     *
     * @param federation the client of the server
     * @param folder the folder for the device's files: one per server, private to the app
     * @param fields the device's description of itself: {@code application}, with the app's name
     *     and version, and {@code tier}, or {@code capability} with the {@code parameters} or
     *     {@code macs} of the largest subnet that the device can train
     * @param threads the number of threads of the trainer
     */
    public Participant(Federation federation, File folder, JSONObject fields, int threads) {
        this.federation = federation;
        this.folder = new FederationFolder(folder);
        this.fields = fields;
        this.threads = threads;
    }

    /**
     * Makes one visit to the server.
     *
     * @param examples the device's own examples
     * @param stopped returns whether to stop; called after each training step and before an update
     *     is sent
     * @return the result of the visit
     * @throws FederationException if the device cannot take part until a person changes something
     * @throws UnavailableException if the server does not answer; a finished update is kept
     * @throws UnusableFileException if the model cannot be used, or training diverged
     * @throws IOException if something else fails, for example because the disk is full
     */
    public Visit visit(Examples examples, BooleanSupplier stopped) throws IOException {
        String url = federation.address().url;
        Federation.Identity identity = folder.identity(url);
        if (identity == null) {
            federation.checkServer();
            identity = federation.enrol();
            folder.keepIdentity(url, identity);
        }
        federation.use(identity);
        FederationFolder.Pending pending = folder.pending();
        if (pending != null) {
            return send(pending, stopped);
        }
        Federation.Answer answer = federation.checkIn(withModel());
        Task task = answer.task();
        if (task == null) {
            return new Visit(Event.WAITS, answer.waitSeconds(), -1, null, null, "");
        }
        File model = folder.model(task.model());
        if (!model.exists()) {
            folder.removeOtherModels(task.model());
            federation.fetchModel(task, model);
        }
        return work(task, open(model), answer.waitSeconds(), examples, stopped);
    }

    /**
     * Asks for the state of the device's latest updates, once it has enrolled.
     *
     * @return the result of {@link Federation#status}
     * @throws IOException if there is no answer
     */
    public JSONObject status() throws IOException {
        Federation.Identity identity = folder.identity(federation.address().url);
        if (identity != null) {
            federation.use(identity);
        }
        return federation.status();
    }

    private JSONObject withModel() throws IOException {
        try {
            JSONObject said = new JSONObject(fields.toString());
            said.put("runtime", Trainer.runtime());
            String held = folder.heldModel();
            if (held != null) {
                said.put("model", held);
            }
            return said;
        } catch (JSONException impossible) {
            throw new IOException(impossible); // The fields are valid JSON already.
        }
    }

    private Trainer open(File model) throws IOException {
        byte[] file = SafeFile.read(model, Task.MAX_MODEL_BYTES);
        try {
            return new Trainer(file, threads);
        } catch (UnusableFileException error) {
            model.delete(); // Damaged since the download: the next visit downloads it again.
            throw error;
        }
    }

    private Visit work(Task task, Trainer opened, int waitSeconds, Examples examples,
            BooleanSupplier stopped) throws IOException {
        FederationFolder.Pending made;
        try (Trainer trainer = opened) {
            List<Example> own = examples.of(trainer.metadata());
            if (own.isEmpty()) {
                return new Visit(Event.NEEDS_EXAMPLES, waitSeconds, task.round(), null, null, "");
            }
            SortedMap<String, float[]> received = trainer.weights();
            Score before = trainer.evaluate(own);
            TrainingRun run = new TrainingRun(trainer, own,
                    new TrainingRun.Plan(task.epochs(), task.learningRate(), Trainer.Part.ALL),
                    task.seed());
            while (run.step()) {
                if (stopped.getAsBoolean()) {
                    return new Visit(Event.STOPPED, waitSeconds, task.round(), null, null, "");
                }
            }
            Checkpoint learned =
                    new Checkpoint(trainer.weights(), before, trainer.evaluate(own), run.losses());
            made = folder.keepUpdate(task,
                    UpdateFile.of(trainer.metadata(), received, learned), trainer.metadata());
        }
        return send(made, stopped);
    }

    /** Sends an update, and deletes it once the server has accepted it or refused it for good. */
    private Visit send(FederationFolder.Pending pending, BooleanSupplier stopped) throws IOException {
        if (stopped.getAsBoolean()) {
            return new Visit(Event.STOPPED, WAIT_SECONDS, pending.round(), null, null, "");
        }
        Event event = Event.SENT;
        int waitSeconds = WAIT_SECONDS;
        String message = "";
        try {
            waitSeconds = federation.sendUpdate(pending.task(), folder.update());
        } catch (RefusedException error) {
            event = Event.REFUSED;
            message = error.getMessage();
        }
        folder.dropUpdate();
        return new Visit(
                event, waitSeconds, pending.round(), pending.before(), pending.after(), message);
    }
}
