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
 * A device that takes part in federated learning. A visit sends what waits to be sent, or asks for
 * a task, fetches its model, trains it on the device's own examples and sends the change of its
 * weights; the examples stay. What is kept between visits is in a folder, so that a device that is
 * killed at any time goes on where it was. For one thread, not the main one.
 */
public final class Participant {
    private static final int MOST_MODEL_BYTES = 256 << 20;
    // Until a device comes back that was told no time.
    private static final int WAIT_SECONDS = 60;

    /** The device's own examples. */
    public interface Examples {
        /**
         * Returns the examples for a model.
         *
         * @param model what the model says about itself: the shape of its images, its classes
         * @return them; none where there are none of this kind
         * @throws IOException if they cannot be read
         */
        List<Example> of(ModelMetadata model) throws IOException;
    }

    /** What came of a visit. */
    public enum Event {
        /** There was no task. */
        WAITS,
        /** There was a task, but no example to train on. */
        NEEDS_EXAMPLES,
        /** An update was accepted. */
        SENT,
        /** An update was refused for good, and is forgotten. */
        REFUSED,
        /** The training was stopped; the task is given again. */
        STOPPED
    }

    /**
     * The end of a visit.
     *
     * @param event what came of it
     * @param waitSeconds seconds until the next one
     * @param round the task's round, or -1 without a task
     * @param before score of the model as it came on the device's examples, or null
     * @param after score after training, or null
     * @param message why an update was refused, or empty
     */
    public record Visit(Event event, int waitSeconds, int round, @Nullable Score before,
            @Nullable Score after, String message) {}

    private final Federation federation;
    private final FederationFolder folder;
    private final JSONObject fields;
    private final int threads;

    /**
     * Prepares a device; nothing is sent.
     *
     * @param federation speaks with the server
     * @param folder where the device keeps its files: one for each server, which other apps cannot read
     * @param fields what the device says of itself: {@code application}, its name and version, and
     *     {@code tier}, or {@code capability} with the {@code parameters} or {@code macs} of the
     *     largest subnet that it can train
     * @param threads threads of the trainer
     */
    public Participant(Federation federation, File folder, JSONObject fields, int threads) {
        this.federation = federation;
        this.folder = new FederationFolder(folder);
        this.fields = fields;
        this.threads = threads;
    }

    /**
     * Does what is due.
     *
     * @param examples the device's own
     * @param stopped tells, asked after each step, whether to end the training
     * @return what came of it
     * @throws FederationException if the device cannot take part until a person changes something
     * @throws UnavailableException if the server does not answer; what was made is kept
     * @throws UnusableFileException if the model cannot be used, or the training went astray
     * @throws IOException if something else fails, such as a disk that is full
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
            return send(pending);
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
     * Asks what came of the device's latest updates, once it has enrolled.
     *
     * @return what {@link Federation#status} does
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
            throw new IOException(impossible); // It is a copy.
        }
    }

    private Trainer open(File model) throws IOException {
        byte[] file = SafeFile.read(model, MOST_MODEL_BYTES);
        try {
            return new Trainer(file, threads);
        } catch (UnusableFileException error) {
            model.delete(); // Damaged since it was fetched: the next visit fetches it anew.
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
        return send(made);
    }

    /** Sends an update, and forgets it once the server took or refused it for good. */
    private Visit send(FederationFolder.Pending pending) throws IOException {
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
