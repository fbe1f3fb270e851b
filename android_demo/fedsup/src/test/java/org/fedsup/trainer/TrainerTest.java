package org.fedsup.trainer;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayOutputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.SortedMap;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** Compares the trainer on the real engine with tflite_runtime in Python. */
public class TrainerTest {
    private static final float TOLERANCE = 5e-5f;

    private static Trainer open() throws Exception {
        return new Trainer(Golden.model(), 1);
    }

    /** Returns the batches of golden.py. */
    private static List<List<Example>> batches(JSONObject golden) throws Exception {
        List<Example> examples = Golden.examples(golden);
        JSONArray steps = golden.getJSONArray("steps");
        List<List<Example>> batches = new ArrayList<>();
        for (int number = 0; number < steps.length(); number++) {
            List<Example> batch = new ArrayList<>();
            for (int place = 0; place < steps.getInt(number); place++) {
                batch.add(examples.get((place + 7 * number) % examples.size()));
            }
            batches.add(batch);
        }
        return batches;
    }

    private static float[] losses(Trainer trainer, Trainer.Part part) throws Exception {
        return losses(trainer, part, Golden.values());
    }

    private static float[] losses(Trainer trainer, Trainer.Part part, JSONObject golden)
            throws Exception {
        float rate = (float) golden.getDouble("learning_rate");
        List<List<Example>> batches = batches(golden);
        float[] losses = new float[batches.size()];
        for (int step = 0; step < losses.length; step++) {
            losses[step] = trainer.train(batches.get(step), rate, part);
        }
        return losses;
    }

    @Test
    public void trainsAsPythonDoesAlsoOnShortBatches() throws Exception {
        JSONObject golden = Golden.values();
        byte[] image = Golden.examples().get(0).image();
        try (Trainer trainer = open()) {
            assertArrayEquals(
                    Golden.floats(golden.getJSONArray("received")), trainer.infer(image), TOLERANCE);
            assertArrayEquals(Golden.floats(golden.getJSONArray("train")),
                    losses(trainer, Trainer.Part.ALL), TOLERANCE);
            assertArrayEquals(
                    Golden.floats(golden.getJSONArray("trained")), trainer.infer(image), TOLERANCE);
            JSONObject expected = golden.getJSONObject("evaluated");
            int count = expected.getInt("examples");
            Score score = trainer.evaluate(Golden.examples().subList(0, count));
            assertEquals(expected.getDouble("loss"), score.loss(), TOLERANCE);
            assertEquals(expected.getDouble("correct") / count, score.accuracy(), 1e-6);
        }
    }

    @Test
    public void trainsOnPicturesOfTheModelsOwnResolution() throws Exception {
        JSONObject golden = Golden.values("smaller.json");
        byte[] image = Golden.examples(golden).get(0).image();
        try (Trainer trainer = new Trainer(Golden.smallerModel(), 1)) {
            ModelMetadata model = trainer.metadata();
            assertEquals(4, model.architecture.getInt("resolution"));
            assertArrayEquals(new int[] {4, 4, 1}, model.imageShape);
            assertEquals(16, model.imageSize());
            assertArrayEquals(
                    Golden.floats(golden.getJSONArray("received")), trainer.infer(image), TOLERANCE);
            assertThrows(IllegalArgumentException.class,
                    () -> trainer.infer(Golden.examples().get(0).image()));
            SortedMap<String, float[]> received = trainer.weights();
            assertArrayEquals(Golden.floats(golden.getJSONArray("train")),
                    losses(trainer, Trainer.Part.ALL, golden), TOLERANCE);
            Score score = trainer.evaluate(Golden.examples(golden));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            UpdateFile.of(model, received, new Checkpoint(trainer.weights(), score, score, new float[0]))
                    .write(out, model);
            // The merge needs the resolution in the architecture.
            JSONObject told = SafeTensors.read(
                    out.toByteArray(), "fedsup-tf update", model.weightShapes()).metadata();
            assertEquals(4, told.getJSONObject("architecture").getInt("resolution"));
        }
    }

    @Test
    public void trainsTheHeadAloneIfTheModelCan() throws Exception {
        try (Trainer trainer = open()) {
            if (trainer.canTrain(Trainer.Part.HEAD)) {
                assertArrayEquals(Golden.floats(Golden.values().getJSONArray("train_head")),
                        losses(trainer, Trainer.Part.HEAD), TOLERANCE);
                return;
            }
            String message = assertThrows(
                    IllegalArgumentException.class, () -> losses(trainer, Trainer.Part.HEAD)).getMessage();
            assertTrue(message, message.contains("train_head"));
        }
    }

    @Test
    public void evaluatesAnyNumberOfExamplesAsOneByOne() throws Exception {
        List<Example> examples = Golden.examples();
        try (Trainer trainer = open()) {
            double losses = 0;
            double right = 0;
            for (Example example : examples) {
                Score score = trainer.evaluate(Collections.singletonList(example));
                losses += score.loss() / examples.size();
                right += score.accuracy() / examples.size();
            }
            Score together = trainer.evaluate(examples);
            assertEquals(losses, together.loss(), TOLERANCE);
            assertEquals(right, together.accuracy(), 1e-6);
            assertEquals(examples.size(), together.examples());
        }
    }

    @Test
    public void restoredWeightsInferTheSame() throws Exception {
        byte[] image = Golden.examples().get(3).image();
        try (Trainer first = open(); Trainer second = open()) {
            losses(first, Trainer.Part.ALL);
            second.restore(first.weights());
            assertArrayEquals(first.infer(image), second.infer(image), 0f);
            assertEquals(first.metadata().variables.keySet(), first.weights().keySet());
        }
    }

    @Test
    public void restoringForgetsTheMomentum() throws Exception {
        try (Trainer trainer = open()) {
            SortedMap<String, float[]> received = trainer.weights();
            float[] first = losses(trainer, Trainer.Part.ALL);
            trainer.restore(received);
            assertArrayEquals(first, losses(trainer, Trainer.Part.ALL), 0f);
        }
    }

    @Test
    public void restoreRefusesOtherVariablesAndChangesNothing() throws Exception {
        byte[] image = Golden.examples().get(3).image();
        try (Trainer trainer = open()) {
            float[] before = trainer.infer(image);
            SortedMap<String, float[]> weights = trainer.weights();
            float[] bias = weights.remove("head/bias");
            assertRefused(trainer, weights, "head/bias");
            weights.put("head/bias", Arrays.copyOf(bias, bias.length - 1));
            assertRefused(trainer, weights, "head/bias");
            weights.put("head/bias", bias);
            weights.put("head/other", bias);
            assertRefused(trainer, weights, "head/other");
            assertArrayEquals(before, trainer.infer(image), 0f);
        }
    }

    private static void assertRefused(
            Trainer trainer, SortedMap<String, float[]> weights, String named) {
        String message = assertThrows(
                IllegalArgumentException.class, () -> trainer.restore(weights)).getMessage();
        assertTrue(message, message.contains(named));
    }

    @Test
    public void refusesExamplesThatTheModelDoesNotTake() throws Exception {
        Example good = Golden.examples().get(0);
        try (Trainer trainer = open()) {
            List<Example> many = Collections.nCopies(trainer.batchSize() + 1, good);
            List<List<Example>> wrong = List.of(
                    List.of(), many, List.of(new Example(new byte[63], 1)),
                    List.of(new Example(good.image(), 10)), List.of(new Example(good.image(), -1)));
            for (List<Example> batch : wrong) {
                assertThrows(IllegalArgumentException.class,
                        () -> trainer.train(batch, 0.01f, Trainer.Part.ALL));
            }
            assertThrows(IllegalArgumentException.class, () -> trainer.infer(new byte[65]));
            assertThrows(IllegalArgumentException.class, () -> trainer.evaluate(List.of()));
        }
    }

    @Test
    public void saysInASentenceThatAFileIsNoModel() throws Exception {
        byte[] model = Golden.model();
        byte[] garbage = Golden.engineModel();
        Arrays.fill(garbage, 8, garbage.length, (byte) 0x5a);
        JSONObject metadata = Golden.metadata();
        byte[] flipped = model.clone();
        flipped[model.length / 2] ^= 1;
        List<byte[]> foreign = new ArrayList<>(List.of(
                new byte[0], "hello".getBytes(), flipped, Arrays.copyOf(model, model.length / 2),
                Golden.engineModel(), Golden.withArchive(Golden.engineModel(), "other.json", "{}"),
                Golden.withArchive(garbage, "fedsup.json", metadata.toString()),
                Golden.withArchive(Golden.engineModel(), "fedsup.json", "{"),
                Golden.modelSaying(Golden.metadata().put("version", 2)),
                Golden.modelSaying(without(Golden.metadata(), "head/bias"))));
        JSONObject batches = Golden.metadata();
        batches.getJSONObject("batch_sizes").put("train", 7);
        foreign.add(Golden.modelSaying(batches));
        foreign.add(Golden.modelSaying(
                Golden.metadata().put("class_names", new JSONArray(List.of("yes", "no")))));
        for (byte[] file : foreign) {
            String message = assertThrows(
                    UnusableFileException.class, () -> new Trainer(file, 1)).getMessage();
            assertTrue(message, message.endsWith(".") && !message.contains("\n"));
            assertFalse(message, message.contains("Exception"));
        }
        new Trainer(Golden.modelSaying(metadata), 1).close(); // The zip itself is not refused.
    }

    private static JSONObject without(JSONObject metadata, String variable) throws Exception {
        metadata.getJSONObject("variables").remove(variable);
        return metadata;
    }
}
