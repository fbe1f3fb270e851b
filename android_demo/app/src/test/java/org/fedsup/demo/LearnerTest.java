package org.fedsup.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SortedMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.After;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** All that the app does but its screen, on the real engine. */
public class LearnerTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private final List<Learner> opened = new ArrayList<>();

    @After
    public void close() {
        opened.forEach(Learner::close);
    }

    private Learner open() throws Exception {
        return open(Golden::model);
    }

    private Learner open(Learner.Source model) throws Exception {
        Learner learner = new Learner(folder.getRoot(), model, Runnable::run);
        opened.add(learner);
        settle(learner);
        return learner;
    }

    /** Waits until there is nothing more to do. */
    static LearnerState settle(Learner learner) throws Exception {
        do {
            learner.worker.submit(() -> {}).get(60, TimeUnit.SECONDS);
        } while (learner.state().training());
        learner.worker.submit(() -> {}).get(60, TimeUnit.SECONDS);
        return learner.state();
    }

    /** As if the process ended and another began. */
    private Learner restart(Learner learner) throws Exception {
        learner.close();
        assertTrue(learner.worker.awaitTermination(60, TimeUnit.SECONDS));
        return open();
    }

    private static LearnerState train(Learner learner) throws Exception {
        CountDownLatch finished = new CountDownLatch(1);
        learner.train(finished::countDown);
        assertTrue(finished.await(60, TimeUnit.SECONDS));
        return settle(learner);
    }

    /** Digits that lean far to the right, which the model as it came reads badly. */
    static List<Example> slanted(int count) {
        Random random = new Random(4);
        List<Example> examples = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            examples.add(Handwriting.example(number % 10, 0.75f, 0.02f, random));
        }
        return examples;
    }

    private static void teach(Learner learner, int count) throws Exception {
        slanted(count).forEach(learner::teach);
        settle(learner);
    }

    private File checkpoint() {
        File[] files = folder.getRoot().listFiles((dir, name) -> name.startsWith("checkpoint-"));
        assertEquals(1, files.length);
        return files[0];
    }

    @Test
    public void learnsAHandwritingAndRemembersItAfterARestart() throws Exception {
        Learner learner = open();
        teach(learner, 30);
        LearnerState trained = train(learner);
        assertNull(trained.problem());
        assertEquals(30, trained.before().examples());
        assertTrue(trained.toString(), trained.before().accuracy() < 0.95);
        assertTrue(trained.toString(), trained.after().accuracy() > trained.before().accuracy());
        assertTrue(trained.toString(), trained.after().loss() < 0.5 * trained.before().loss());
        assertEquals(trained.steps(), trained.losses().length);
        byte[] image = slanted(3).get(2).image();
        learner.look(image);
        float[] answer = settle(learner).answer();

        Learner again = restart(learner);
        again.look(image);
        LearnerState state = settle(again);
        assertArrayEquals(answer, state.answer(), 0f);
        assertEquals(trained.before(), state.before());
        assertEquals(trained.after(), state.after());
        assertArrayEquals(trained.losses(), state.losses(), 0f);
        assertArrayEquals(trained.counts(), state.counts());
    }

    @Test
    public void answersWhileItTrains() throws Exception {
        Learner learner = open();
        teach(learner, 40);
        AtomicReference<LearnerState> meanwhile = new AtomicReference<>();
        learner.watch(state -> {
            if (state.training() && state.losses().length == 2) {
                learner.look(slanted(1).get(0).image());
            }
            if (state.training() && state.answer() != null) {
                meanwhile.compareAndSet(null, state);
            }
        });
        train(learner);
        assertNotNull(meanwhile.get());
        assertTrue(meanwhile.get().losses().length < meanwhile.get().steps());
    }

    @Test
    public void keepsWhatItLearnedBeforeItWasStopped() throws Exception {
        Learner learner = open();
        teach(learner, 40);
        learner.watch(state -> {
            if (state.training() && state.losses().length == 4) {
                learner.cancel();
            }
        });
        LearnerState stopped = train(learner);
        assertFalse(stopped.training());
        assertTrue(stopped.losses().length < 10);
        assertNotEquals(stopped.before().loss(), stopped.after().loss(), 0);
        LearnerState again = restart(learner).state();
        assertEquals(stopped.after(), again.after());
    }

    @Test
    public void aTrainingOfNothingEndsAtOnce() throws Exception {
        Learner learner = open();
        assertNull(train(learner).after());
    }

    @Test
    public void onItsOwnItTrainsOnlyOnNewDrawings() throws Exception {
        Learner learner = open();
        teach(learner, 10);
        CountDownLatch finished = new CountDownLatch(2);
        learner.trainOnNew(finished::countDown);
        float[] losses = settle(learner).losses();
        assertTrue(losses.length > 0);
        learner.trainOnNew(finished::countDown);
        assertArrayEquals(losses, settle(learner).losses(), 0f);
        assertTrue(finished.await(60, TimeUnit.SECONDS));
        teach(learner, 1);
        learner.trainOnNew(() -> {});
        assertEquals(11, settle(learner).after().examples());
    }

    @Test
    public void forgetsWhenTold() throws Exception {
        Learner learner = open();
        byte[] image = slanted(1).get(0).image();
        learner.look(image);
        float[] asItCame = settle(learner).answer();
        teach(learner, 20);
        assertFalse(Arrays.equals(asItCame, train(learner).answer()));
        learner.unteach();
        learner.forget();
        LearnerState state = settle(learner);
        assertNull(state.after());
        assertArrayEquals(asItCame, state.answer(), 0f);
        assertEquals(19, state.drawings().size());
        learner.deleteExamples();
        assertEquals(0, settle(learner).drawings().size());
        LearnerState again = restart(learner).state();
        assertNull(again.after());
        assertEquals(0, again.drawings().size());
    }

    @Test
    public void saysWhatIsWrongWithAModelThatCannotLearnDrawings() throws Exception {
        JSONObject photos = Golden.metadata();
        photos.getJSONObject("space").put("image_shape", new JSONArray(List.of(32, 32, 3)));
        JSONObject infers = Golden.metadata().put("variables", new JSONObject()).put(
                "batch_sizes", new JSONObject().put("infer", 1));
        Map<JSONObject, String> problems = Map.of(
                photos, "This model takes images of 32×32×3, here you draw some of 8×8×1: choose a "
                        + "digits model.",
                infers, "This model only infers: choose the one that fedsup export wrote beside it.");
        Learner learner = open();
        for (JSONObject metadata : problems.keySet()) {
            learner.openModel(() -> Golden.modelSaying(metadata));
            assertEquals(problems.get(metadata), settle(learner).problem());
            assertTrue(learner.state().builtIn());
        }
    }

    @Test
    public void aWrongFileIsOneSentenceAndTheOldModelStays() throws Exception {
        Learner learner = open();
        teach(learner, 20);
        LearnerState before = train(learner);
        List<Learner.Source> wrong = List.of(
                () -> "hello".getBytes(),
                () -> Arrays.copyOf(Golden.model(), 5000),
                Golden::engineModel,
                () -> {
                    throw new UnusableFileException("This file could not be opened: choose another.");
                });
        for (Learner.Source source : wrong) {
            learner.openModel(source);
            LearnerState state = settle(learner);
            assertNotNull(state.problem());
            assertTrue(state.problem(), state.problem().endsWith("."));
            assertEquals(before.model(), state.model());
            assertEquals(before.after(), state.after());
            learner.report(null);
            assertNull(settle(learner).problem());
        }
        assertFalse(new File(folder.getRoot(), "model.tflite").exists());
    }

    @Test
    public void theNextRoundsModelTrainsOnTheSameDrawings() throws Exception {
        Learner learner = open();
        teach(learner, 20);
        LearnerState first = train(learner);
        JSONObject metadata = Golden.metadata();
        byte[] next = Golden.modelSaying(metadata.put("round", 61 + metadata.getInt("round")));
        learner.openModel(() -> next);
        LearnerState state = settle(learner);
        assertNull(state.problem());
        assertFalse(state.builtIn());
        assertEquals(metadata.getInt("round"), state.model().round);
        assertNull("it has learned nothing yet", state.after());
        assertEquals(20, state.drawings().size());

        Learner again = restart(learner);
        assertEquals(metadata.getInt("round"), again.state().model().round);
        again.openBuiltIn();
        LearnerState back = settle(again);
        assertTrue(back.builtIn());
        assertEquals("what the first one learned is there", first.after(), back.after());
    }

    @Test
    public void aPickedModelThatIsDamagedLaterGivesWayToTheAppsOwn() throws Exception {
        Files.write(new File(folder.getRoot(), "model.tflite").toPath(), new byte[1000]);
        LearnerState state = open().state();
        assertTrue(state.builtIn());
        assertNotNull(state.problem());
    }

    @Test
    public void aDamagedCheckpointIsToldAndTheModelIsAsItCame() throws Exception {
        Learner learner = open();
        byte[] image = slanted(1).get(0).image();
        learner.look(image);
        float[] asItCame = settle(learner).answer();
        teach(learner, 20);
        train(learner);
        byte[] good = Files.readAllBytes(checkpoint().toPath());
        byte[] flipped = good.clone();
        flipped[good.length - 1000] ^= 1;
        byte[] header = good.clone();
        header[40] ^= 1;
        for (byte[] damaged : List.of(flipped, header, Arrays.copyOf(good, good.length / 2), new byte[0])) {
            learner.close();
            learner.worker.awaitTermination(60, TimeUnit.SECONDS);
            Files.write(checkpoint().toPath(), damaged);
            learner = open();
            learner.look(image);
            LearnerState state = settle(learner);
            assertTrue(state.problem(), state.problem().startsWith("What was learned here could not be"));
            assertNull(state.after());
            assertArrayEquals(asItCame, state.answer(), 0f);
            assertEquals("drawings are another file", 20, state.drawings().size());
        }
        assertNull("training makes it good", train(learner).problem());
        assertNotNull(restart(learner).state().after());
    }

    @Test
    public void aPickedModelStaysIfWhatItLearnedIsDamaged() throws Exception {
        byte[] picked = Golden.modelSaying(Golden.metadata().put("round", 4321));
        Learner learner = open();
        learner.openModel(() -> picked);
        teach(learner, 5);
        train(learner);
        learner.close();
        assertTrue(learner.worker.awaitTermination(60, TimeUnit.SECONDS));
        Files.write(checkpoint().toPath(), new byte[100]);
        LearnerState state = open().state();
        assertNotNull(state.problem());
        assertFalse(state.builtIn());
        assertEquals(4321, state.model().round);
        assertEquals(5, state.drawings().size());
    }

    @Test
    public void damagedDrawingsAreTold() throws Exception {
        Learner learner = open();
        teach(learner, 3);
        train(learner);
        File file = folder.getRoot().listFiles((dir, name) -> name.startsWith("examples-"))[0];
        byte[] content = Files.readAllBytes(file.toPath());
        content[20] ^= 1;
        Files.write(file.toPath(), content);
        Learner again = restart(learner);
        assertTrue(again.state().problem(), again.state().problem().startsWith("Your drawings"));
        assertEquals(0, again.state().drawings().size());
        assertNotNull("what was learned is another file", again.state().after());
        teach(again, 2);
        assertEquals(2, again.state().drawings().size());
    }

    @Test
    public void aFullDiskIsToldAndNothingIsLost() throws Exception {
        Learner learner = open();
        teach(learner, 20);
        LearnerState first = train(learner);
        byte[] kept = Files.readAllBytes(checkpoint().toPath());
        // While it trains, every temporary file of the checkpoint meets a full disk.
        Path temporary = folder.getRoot().toPath().resolve("." + checkpoint().getName() + ".part");
        Files.createSymbolicLink(temporary, Paths.get("/dev/full"));
        learner.watch(state -> {
            try {
                Files.createSymbolicLink(temporary, Paths.get("/dev/full"));
            } catch (IOException present) {
                // It is there.
            }
        });
        LearnerState state = train(learner);
        assertTrue(state.problem(), state.problem().contains("No space left on device"));
        assertNotEquals("it learned all the same", first.after(), state.after());
        assertArrayEquals(kept, Files.readAllBytes(checkpoint().toPath()));
        assertEquals(first.after(), restart(learner).state().after());
    }

    @Test
    public void aDrawingThatCannotBeKeptIsNotCounted() throws Exception {
        Learner learner = open();
        teach(learner, 1);
        String name = folder.getRoot().list((dir, file) -> file.startsWith("examples-"))[0];
        Files.createSymbolicLink(
                folder.getRoot().toPath().resolve("." + name + ".part"), Paths.get("/dev/full"));
        learner.teach(slanted(2).get(1));
        LearnerState state = settle(learner);
        assertTrue(state.problem(), state.problem().contains("No space left on device"));
        assertEquals(1, state.drawings().size());
    }

    @Test
    public void trainingThatGoesAstrayIsUndone() throws Exception {
        Learner learner = open();
        teach(learner, 20);
        train(learner);
        learner.close();
        learner.worker.awaitTermination(60, TimeUnit.SECONDS);
        ModelMetadata model = ModelMetadata.read(Golden.model());
        CheckpointStore store = new CheckpointStore(folder.getRoot(), model);
        Checkpoint checkpoint = store.read();
        float[] kernel = checkpoint.weights().get("head/kernel");
        for (int place = 0; place < kernel.length; place++) {
            kernel[place] = place % 2 == 0 ? 3e38f : -3e38f; // Products of these are no numbers.
        }
        Score poor = new Score(20, 9, 0);
        store.write(new Checkpoint(checkpoint.weights(), poor, poor, new float[] {9}));
        Learner again = open();
        again.teach(slanted(1).get(0));
        LearnerState state = train(again);
        assertTrue(state.problem(), state.problem().startsWith("Training went astray"));
        assertFalse(state.training());
        assertEquals(poor, state.after());
    }

    @Test
    public void exportsWhatItLearned() throws Exception {
        Learner learner = open();
        learner.export(file -> {
            throw new AssertionError("there is nothing yet");
        });
        assertNotNull(settle(learner).problem());
        teach(learner, 20);
        LearnerState state = train(learner);
        AtomicReference<File> exported = new AtomicReference<>();
        learner.export(exported::set);
        assertNull(settle(learner).problem());
        byte[] content = Files.readAllBytes(exported.get().toPath());
        UpdateFile update = UpdateFile.read(content, state.model());
        assertEquals(20, update.after().examples());
        assertEquals(state.before().loss(), update.before().loss(), 0);
        assertEquals(state.after().loss(), update.after().loss(), 0);
        try (Trainer fresh = new Trainer(Golden.model(), 1)) {
            SortedMap<String, float[]> received = fresh.weights();
            SortedMap<String, float[]> trained =
                    new CheckpointStore(folder.getRoot(), state.model()).read().weights();
            update.delta().forEach((name, delta) -> {
                for (int place = 0; place < delta.length; place++) {
                    float expected = trained.get(name)[place] - received.get(name)[place];
                    assertEquals(name, expected, delta[place], 0f);
                }
            });
        }
        Learner again = restart(learner);
        AtomicReference<File> second = new AtomicReference<>();
        again.export(second::set);
        settle(again);
        assertArrayEquals(content, Files.readAllBytes(second.get().toPath()));
        assertEquals(exported.get().getName(), second.get().getName());
    }

    /** Trains without end and says after each epoch what it kept. */
    public static final class Trains {
        public static void main(String[] arguments) throws Exception {
            Learner learner = new Learner(new File(arguments[0]), Golden::model, Runnable::run);
            slanted(20).forEach(learner::teach);
            AtomicReference<Score> told = new AtomicReference<>();
            learner.watch(state -> {
                if (state.after() != null && state.after() != told.getAndSet(state.after())) {
                    System.out.println(state.losses().length);
                }
            });
            while (true) {
                train(learner);
            }
        }
    }

    @Test
    public void aKillWhileItTrainsLeavesAWholeCheckpoint() throws Exception {
        for (int epochs : new int[] {1, 7}) {
            Process process = Children.start(Trains.class, folder.getRoot().getPath());
            int last = 0;
            try (BufferedReader lines =
                    new BufferedReader(new InputStreamReader(process.getInputStream()))) {
                for (int line = 0; line < epochs; line++) {
                    last = Integer.parseInt(lines.readLine());
                }
                process.destroyForcibly().waitFor();
            }
            Learner learner = open();
            LearnerState state = learner.state();
            assertNull(state.problem());
            assertTrue(last + " " + state.losses().length, state.losses().length >= last);
            assertEquals(20, state.after().examples());
            learner.close();
            assertTrue(learner.worker.awaitTermination(60, TimeUnit.SECONDS));
            for (File file : folder.getRoot().listFiles()) {
                assertTrue(file.delete());
            }
        }
        assertEquals(Collections.emptyList(), Arrays.asList(folder.getRoot().list()));
    }
}
