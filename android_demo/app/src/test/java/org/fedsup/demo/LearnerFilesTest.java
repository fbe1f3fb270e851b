package org.fedsup.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.fedsup.trainer.Golden;
import org.fedsup.trainer.UnusableFileException;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** Tests of a learner's files: picked models, damaged files, and files that cannot be written. */
public class LearnerFilesTest extends LearnerCase {
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
    public void withoutAnyModelOneCanBeOpened() throws Exception {
        byte[] picked = Golden.model();
        Learner learner = new Learner(folder.getRoot(), () -> {
            throw new IOException("none");
        }, Runnable::run);
        try {
            assertEquals("none", settle(learner).problem());
            learner.openModel(() -> picked);
            LearnerState state = settle(learner);
            assertNull(state.problem());
            assertNotNull(state.model());
        } finally {
            learner.close();
        }
    }

    @Test
    public void aDamagedCheckpointIsToldAndTheModelIsAsItCame() throws Exception {
        Learner learner = open();
        byte[] image = slanted(1).get(0).image();
        learner.classify(image);
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
            learner.classify(image);
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
        // During training, each write of the checkpoint's temporary file meets a full disk.
        Path temporary = folder.getRoot().toPath().resolve("." + checkpoint().getName() + ".part");
        Files.createSymbolicLink(temporary, Paths.get("/dev/full"));
        learner.watch(state -> {
            try {
                Files.createSymbolicLink(temporary, Paths.get("/dev/full"));
            } catch (IOException present) {
                // The link exists already.
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
}
