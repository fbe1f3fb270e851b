package org.fedsup.trainer;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** The model under test, reference results that Python computes with it, and invalid models. */
public final class Golden {
    public static final File BUILD = new File(System.getProperty("fedsup.build", "../build"));

    private Golden() {}

    public static byte[] model() throws IOException {
        return Files.readAllBytes(new File(BUILD, "assets/subnet.tflite").toPath());
    }

    /** Returns a subnet that takes smaller images than the largest of its supernet. */
    public static byte[] smallerModel() throws IOException {
        return Files.readAllBytes(new File(BUILD, "golden/smaller.tflite").toPath());
    }

    public static byte[] update() throws IOException {
        return Files.readAllBytes(new File(BUILD, "golden/update.safetensors").toPath());
    }

    public static JSONObject values() throws IOException, JSONException {
        return values("golden.json");
    }

    public static JSONObject values(String name) throws IOException, JSONException {
        File file = new File(BUILD, "golden/" + name);
        return new JSONObject(new String(Files.readAllBytes(file.toPath()), StandardCharsets.UTF_8));
    }

    public static List<Example> examples() throws IOException, JSONException {
        return examples(values());
    }

    public static List<Example> examples(JSONObject values) throws JSONException {
        JSONArray images = values.getJSONArray("images");
        JSONArray labels = values.getJSONArray("labels");
        List<Example> examples = new ArrayList<>();
        for (int number = 0; number < labels.length(); number++) {
            byte[] image = new byte[images.getJSONArray(number).length()];
            for (int place = 0; place < image.length; place++) {
                image[place] = (byte) images.getJSONArray(number).getInt(place);
            }
            examples.add(new Example(image, labels.getInt(number)));
        }
        return examples;
    }

    public static float[] floats(JSONArray array) throws JSONException {
        float[] values = new float[array.length()];
        for (int place = 0; place < values.length; place++) {
            values[place] = (float) array.getDouble(place);
        }
        return values;
    }

    /** Returns the metadata of the model under test as JSON. */
    public static JSONObject metadata() throws IOException, JSONException {
        return new JSONObject(new TrailingZip(model()).read("fedsup.json", 1 << 20));
    }

    /** Returns the model under test without its archive. */
    public static byte[] engineModel() throws IOException {
        byte[] file = model();
        return Arrays.copyOf(file, new TrailingZip(file).begin());
    }

    /** Returns the model under test with different metadata. */
    public static byte[] modelSaying(JSONObject metadata) throws IOException {
        return withArchive(engineModel(), "fedsup.json", metadata.toString());
    }

    /** Returns a model with an archive that has the right hash and one text entry. */
    public static byte[] withArchive(byte[] model, String entry, String text) throws IOException {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        all.write(model);
        try (ZipOutputStream zip = new ZipOutputStream(all)) {
            zip.putNextEntry(new ZipEntry(entry));
            zip.write(text.getBytes(StandardCharsets.UTF_8));
            zip.putNextEntry(new ZipEntry("model.sha256"));
            zip.write(ModelMetadata.sha256(model).getBytes(StandardCharsets.UTF_8));
        }
        return all.toByteArray();
    }
}
