package org.fedsup.trainer;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.SortedMap;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** Tests of update files that Python writes, and that Python must be able to read. */
public class UpdateFileTest {
    private static final Score BEFORE = new Score(3, 2, 0.5);
    private static final Score AFTER = new Score(3, 0.125, 1);

    private static byte[] written(UpdateFile update, ModelMetadata model) throws Exception {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        update.write(out, model);
        return out.toByteArray();
    }

    /** Returns the update of the same training as in golden.py. */
    private static UpdateFile trained() throws Exception {
        List<Example> examples = Golden.examples();
        JSONObject golden = Golden.values();
        JSONArray steps = golden.getJSONArray("steps");
        try (Trainer trainer = new Trainer(Golden.model(), 1)) {
            SortedMap<String, float[]> received = trainer.weights();
            for (int number = 0; number < steps.length(); number++) {
                Example[] batch = new Example[steps.getInt(number)];
                for (int place = 0; place < batch.length; place++) {
                    batch[place] = examples.get((place + 7 * number) % examples.size());
                }
                trainer.train(Arrays.asList(batch), (float) golden.getDouble("learning_rate"),
                        Trainer.Part.ALL);
            }
            Checkpoint checkpoint = new Checkpoint(trainer.weights(), BEFORE, AFTER, new float[0]);
            return UpdateFile.of(trainer.metadata(), received, checkpoint);
        }
    }

    @Test
    public void readsWhatPythonWrote() throws Exception {
        ModelMetadata model = ModelMetadata.read(Golden.model());
        UpdateFile update = UpdateFile.read(Golden.update(), model);
        assertEquals(12, update.after().examples());
        assertEquals(1.5, update.before().loss(), 0);
        assertEquals(0.25, update.after().loss(), 0);
        UpdateFile own = trained();
        assertEquals(model.weightShapes().keySet(), update.delta().keySet());
        assertEquals(update.delta().keySet(), own.delta().keySet());
        boolean moved = false;
        for (String name : own.delta().keySet()) {
            assertFalse(name, name.endsWith("mean_square"));
            assertArrayEquals(name, update.delta().get(name), own.delta().get(name), 5e-5f);
            for (float value : own.delta().get(name)) {
                moved |= Math.abs(value) > 1e-2f;
            }
        }
        assertTrue("training moved nothing", moved);
    }

    @Test
    public void readsWhatItWrote() throws Exception {
        ModelMetadata model = ModelMetadata.read(Golden.model());
        UpdateFile update = trained();
        UpdateFile copy = UpdateFile.read(written(update, model), model);
        assertEquals(3, copy.after().examples());
        assertEquals(BEFORE.loss(), copy.before().loss(), 0);
        assertEquals(AFTER.loss(), copy.after().loss(), 0);
        for (String name : update.delta().keySet()) {
            assertArrayEquals(update.delta().get(name), copy.delta().get(name), 0f);
        }
    }

    @Test
    public void tellsNothingOfThePhone() throws Exception {
        ModelMetadata model = ModelMetadata.read(Golden.model());
        byte[] file = written(trained(), model);
        String header = new String(file, 8, file.length / 4, StandardCharsets.UTF_8);
        int end = header.indexOf("data_offsets");
        JSONObject text = new JSONObject(new JSONObject(
                new String(file, 8, (file[0] & 0xff) + ((file[1] & 0xff) << 8), StandardCharsets.UTF_8))
                .getJSONObject("__metadata__").getString("fedsup-tf"));
        assertTrue(end > 0);
        assertEquals(List.of("architecture", "base_hash", "base_round", "class_names", "examples",
                "loss_after", "loss_before"), sorted(text.getJSONObject("metadata")));
    }

    private static List<String> sorted(JSONObject fields) {
        return fields.keySet().stream().sorted().toList();
    }

    @Test
    public void refusesWhatIsNoUpdateOfTheModel() throws Exception {
        ModelMetadata model = ModelMetadata.read(Golden.model());
        byte[] good = Golden.update();
        byte[] otherKind = new String(good, StandardCharsets.ISO_8859_1)
                .replace("fedsup-tf update", "fedsup-tf upcake").getBytes(StandardCharsets.ISO_8859_1);
        byte[] otherType = new String(good, StandardCharsets.ISO_8859_1)
                .replaceFirst("F32", "F64").getBytes(StandardCharsets.ISO_8859_1);
        byte[] longHeader = good.clone();
        longHeader[6] = 127;
        List<byte[]> wrong = List.of(new byte[0], new byte[7], Arrays.copyOf(good, good.length - 4),
                Arrays.copyOf(good, good.length + 4), Arrays.copyOf(good, 100), otherKind, otherType,
                longHeader, Arrays.copyOf(good, 1 << 24));
        for (byte[] file : wrong) {
            String message = assertThrows(
                    UnusableFileException.class, () -> UpdateFile.read(file, model)).getMessage();
            assertTrue(message, message.startsWith("This is no update of this model: "));
        }
        JSONObject later = Golden.metadata();
        ModelMetadata other =
                ModelMetadata.read(Golden.modelSaying(later.put("round", later.getInt("round") + 1)));
        assertThrows(UnusableFileException.class, () -> UpdateFile.read(good, other));
        JSONObject renamed = Golden.metadata();
        renamed.getJSONArray("class_names").put(0, "another");
        ModelMetadata otherClasses = ModelMetadata.read(Golden.modelSaying(renamed));
        assertThrows(UnusableFileException.class, () -> UpdateFile.read(good, otherClasses));
    }

    @Test
    public void writesNoNumbersThatAreNone() throws Exception {
        ModelMetadata model = ModelMetadata.read(Golden.model());
        UpdateFile update = trained();
        assertThrows(UnusableFileException.class, () -> written(
                new UpdateFile(update.delta(), BEFORE, new Score(3, Double.NaN, 1)), model));
        update.delta().get("head/bias")[0] = Float.POSITIVE_INFINITY;
        assertThrows(UnusableFileException.class, () -> written(update, model));
    }
}
