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
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.Set;
import java.util.SortedMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.fedsup.trainer.Checkpoint;
import org.fedsup.trainer.CheckpointStore;
import org.fedsup.trainer.Children;
import org.fedsup.trainer.Golden;
import org.fedsup.trainer.ModelMetadata;
import org.fedsup.trainer.Score;
import org.fedsup.trainer.Trainer;
import org.fedsup.trainer.UpdateFile;
import org.junit.Test;

/** Tests of the app without its screen: it learns, answers, remembers, stops and exports. */
public class LearnerTest extends LearnerCase {
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
        learner.classify(image);
        float[] answer = settle(learner).answer();

        Learner again = restart(learner);
        again.classify(image);
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
                learner.classify(slanted(1).get(0).image());
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
    public void aTrainingOnItsOwnDoesNotUndoAStop() throws Exception {
        Learner learner = open();
        teach(learner, 40);
        CountDownLatch finished = new CountDownLatch(1);
        learner.watch(state -> {
            if (state.training() && state.losses().length == 4) {
                learner.cancel();
                learner.trainOnNew(finished::countDown); // The phone starts charging.
            }
        });
        LearnerState stopped = train(learner);
        assertTrue(stopped.losses().length + " steps", stopped.losses().length < 10);
        assertTrue(finished.await(60, TimeUnit.SECONDS));
    }

    @Test
    public void aStopBeforeTheFirstStepIsNotForgotten() throws Exception {
        Learner learner = open();
        teach(learner, 10);
        CountDownLatch finished = new CountDownLatch(1);
        learner.worker.execute(() -> { // Delays training until it is cancelled.
            learner.train(finished::countDown);
            learner.cancel();
        });
        assertTrue(finished.await(60, TimeUnit.SECONDS));
        assertNull(settle(learner).after());
        assertEquals(10, train(learner).after().examples());
    }

    @Test
    public void anImageThatIsNoneIsAProblemAndTheNextIsAnswered() throws Exception {
        Learner learner = open();
        learner.classify(new byte[3]);
        LearnerState state = settle(learner);
        assertNotNull(state.problem());
        assertNull(state.answer());
        teach(learner, 10);
        assertNull(train(learner).problem());
        learner.classify(slanted(1).get(0).image());
        assertNotNull(settle(learner).answer());
    }

    @Test
    public void whileItTrainsItInfersOnceAnEpoch() throws Exception {
        Learner learner = open();
        teach(learner, 40);
        learner.classify(slanted(1).get(0).image());
        Set<float[]> answers = Collections.newSetFromMap(new IdentityHashMap<>());
        learner.watch(state -> {
            if (state.training()) {
                answers.add(state.answer());
            }
        });
        int steps = train(learner).steps();
        assertTrue(answers.size() + " in " + steps, answers.size() > 2 && answers.size() < steps / 2);
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
        learner.classify(image);
        float[] asItCame = settle(learner).answer();
        teach(learner, 20);
        assertFalse(Arrays.equals(asItCame, train(learner).answer()));
        learner.removeLast();
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
            kernel[place] = place % 2 == 0 ? 3e38f : -3e38f; // Their products overflow.
        }
        Score poor = new Score(20, 9, 0);
        store.write(new Checkpoint(checkpoint.weights(), poor, poor, new float[] {9}));
        Learner again = open();
        again.teach(slanted(1).get(0));
        LearnerState state = train(again);
        assertTrue(state.problem(), state.problem().startsWith("Training diverged"));
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

    /** Trains endlessly and prints the number of steps after each epoch that was saved. */
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
