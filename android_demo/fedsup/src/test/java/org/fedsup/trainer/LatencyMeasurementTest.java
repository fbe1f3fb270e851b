package org.fedsup.trainer;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Tests of a phone's own latency table, with the part models of fedsup profile --parts. */
public class LatencyMeasurementTest {
    private static final File PARTS = new File(Golden.BUILD, "golden/parts.zip");

    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void measuresEveryPartOnTheRealEngine() throws Exception {
        try (PartModels parts = new PartModels(PARTS)) {
            LatencyMeasurement measurement = new LatencyMeasurement(parts);
            assertThrows(IllegalStateException.class, () -> measurement.table("too early"));
            int steps = 0;
            while (measurement.step()) {
                assertEquals(++steps, measurement.done());
            }
            assertEquals(parts.groups.size() + parts.subnets.size(), steps);
            assertEquals(steps, measurement.files());
            String text = measurement.table("a phone");
            // build.sh loads it in Python.
            Files.write(new File(Golden.BUILD, "golden/latency.json").toPath(),
                    text.getBytes(StandardCharsets.UTF_8));
            JSONObject table = new JSONObject(text);
            assertEquals(parts.space.toString(), table.getJSONObject("space").toString());
            assertTrue(table.getString("machine").startsWith("a phone; TensorFlow Lite 2."));
            JSONArray rows = table.getJSONArray("rows");
            assertEquals(7, rows.length());
            assertEquals("stem", rows.getJSONObject(0).getString("kind"));
            assertTrue(rows.getJSONObject(0).getDouble("infer_ms") > 0);
            assertTrue(rows.getJSONObject(0).getDouble("train_ms") > 0);
            assertEquals(1, table.getJSONObject("infer").getInt("batch_size"));
            assertEquals(2, table.getJSONObject("train").getInt("batch_size"));
            assertEquals(2, table.getJSONObject("train").getInt("subnets"));
        }
    }

    @Test
    public void sumsOfPartsAreWholeSubnetsAfterOneFactor() throws Exception {
        try (PartModels parts = new PartModels(PARTS)) {
            List<Latency> rows = new ArrayList<>();
            for (int number = 0; number < 7; number++) {
                rows.add(new Latency(number / 10.0, number));
            }
            Latency call = new Latency(0.5, 5);
            List<Latency> subnets = new ArrayList<>();
            for (PartModels.Subnet subnet : parts.subnets) {
                Latency sum = call;
                for (int row : subnet.rows()) {
                    sum = sum.plus(rows.get(row));
                }
                subnets.add(sum.times(new Latency(1.25, 0.8)));
            }
            // The median is taken over all calls, so that an outlier has no effect.
            List<Latency> calls = List.of(call, new Latency(9, 90), call);
            JSONObject table =
                    new JSONObject(new LatencyFit(parts, rows, calls, subnets).table("here"));
            assertTrue(table.getString("machine"),
                    table.getString("machine").contains("1.250 (infer) and 0.800 (train), fitted on 1 "));
            JSONArray found = table.getJSONArray("rows");
            assertEquals(1.25 * 0.5, found.getJSONObject(0).getDouble("infer_ms"), 1e-9);
            assertEquals(0.8 * 5, found.getJSONObject(0).getDouble("train_ms"), 1e-9);
            assertEquals(0.8 * 6, found.getJSONObject(6).getDouble("train_ms"), 1e-9);
            assertEquals(0, table.getJSONObject("infer").getDouble("largest_error"), 1e-9);

            for (int number = 0; number < subnets.size(); number++) {
                if (!parts.subnets.get(number).fitted()) {
                    double slower = subnets.get(number).infer() * (number % 2 == 0 ? 1.25 : 2);
                    subnets.set(number, new Latency(slower, subnets.get(number).train()));
                }
            }
            JSONObject errors =
                    new JSONObject(new LatencyFit(parts, rows, calls, subnets).table("here"))
                            .getJSONObject("infer");
            assertEquals(0.5, errors.getDouble("largest_error"), 1e-9);
            assertEquals(0.35, errors.getDouble("median_error"), 1e-9);
        }
    }

    @Test
    public void saysInASentenceThatAFileHoldsNoParts() throws Exception {
        byte[] good = Files.readAllBytes(PARTS.toPath());
        for (byte[] wrong : List.of(new byte[0], Golden.model(),
                Arrays.copyOf(good, good.length / 2), archive("{"), archive("{}"),
                archive("{\"kind\": \"fedsup-tf parts\", \"version\": 2}"))) {
            File file = folder.newFile();
            Files.write(file.toPath(), wrong);
            String told = assertThrows(UnusableFileException.class, () -> new PartModels(file)).getMessage();
            assertTrue(told, told.startsWith("This is no file of part models ("));
            assertTrue(told, told.endsWith("expected what fedsup profile --parts wrote."));
        }
    }

    @Test
    public void damageOfAModelIsSeenBeforeTheEngineOpensIt() throws Exception {
        byte[] damaged = Files.readAllBytes(PARTS.toPath());
        damaged[1000] ^= 1; // Within the first model.
        File file = folder.newFile();
        Files.write(file.toPath(), damaged);
        try (PartModels parts = new PartModels(file)) {
            LatencyMeasurement measurement = new LatencyMeasurement(parts);
            String told = assertThrows(UnusableFileException.class, measurement::step).getMessage();
            assertTrue(told, told.startsWith("These part models are damaged ("));
            assertFalse(measurement.done() > 0);
        }
    }

    private static byte[] archive(String text) throws Exception {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        try (ZipOutputStream zip = new ZipOutputStream(all)) {
            zip.putNextEntry(new ZipEntry("parts.json"));
            zip.write(text.getBytes(StandardCharsets.UTF_8));
        }
        return all.toByteArray();
    }
}
