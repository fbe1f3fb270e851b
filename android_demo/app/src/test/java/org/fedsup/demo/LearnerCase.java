package org.fedsup.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.fedsup.trainer.Example;
import org.fedsup.trainer.Golden;
import org.junit.After;
import org.junit.Rule;
import org.junit.rules.TemporaryFolder;

/** Base class of tests of a learner on the real engine: a temporary folder and common steps. */
public abstract class LearnerCase {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private final List<Learner> opened = new ArrayList<>();

    @After
    public void close() {
        opened.forEach(Learner::close);
    }

    Learner open() throws Exception {
        return open(Golden::model);
    }

    Learner open(Learner.Source model) throws Exception {
        Learner learner = new Learner(folder.getRoot(), model, Runnable::run);
        opened.add(learner);
        settle(learner);
        return learner;
    }

    /** Waits until the learner has nothing more to do. */
    static LearnerState settle(Learner learner) throws Exception {
        do {
            learner.worker.submit(() -> {}).get(60, TimeUnit.SECONDS);
        } while (learner.state().training());
        learner.worker.submit(() -> {}).get(60, TimeUnit.SECONDS);
        return learner.state();
    }

    /** Closes a learner and opens another, as if the process had restarted. */
    Learner restart(Learner learner) throws Exception {
        learner.close();
        assertTrue(learner.worker.awaitTermination(60, TimeUnit.SECONDS));
        return open();
    }

    static LearnerState train(Learner learner) throws Exception {
        CountDownLatch finished = new CountDownLatch(1);
        learner.train(finished::countDown);
        assertTrue(finished.await(60, TimeUnit.SECONDS));
        return settle(learner);
    }

    /** Returns digits that slant far to the right, which the original model reads badly. */
    static List<Example> slanted(int count) {
        Random random = new Random(4);
        List<Example> examples = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            examples.add(Handwriting.example(number % 10, 0.75f, 0.02f, random));
        }
        return examples;
    }

    static void teach(Learner learner, int count) throws Exception {
        slanted(count).forEach(learner::teach);
        settle(learner);
    }

    File checkpoint() {
        File[] files = folder.getRoot().listFiles((dir, name) -> name.startsWith("checkpoint-"));
        assertEquals(1, files.length);
        return files[0];
    }
}
