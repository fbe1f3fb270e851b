package org.fedsup.trainer;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** Metadata in a zip archive at the end of a model's file; see tflite/format/metadata.py. */
public final class ModelMetadata {
    private static final String ENTRY = "fedsup.json";
    private static final String HASH_ENTRY = "model.sha256";
    private static final int VERSION = 1;
    private static final int MAX_BYTES = 1 << 20;
    private static final String MEAN_SQUARE = "/mean_square";

    /** SHA-256 of the model's file, which tells checkpoints of different models apart. */
    public final String identity;
    /** Architecture of the subnet, as copied into an update. */
    public final JSONObject architecture;
    /** SHA-256 of the supernet that the subnet was taken from. */
    public final String supernetHash;
    /** Number of rounds that the supernet has been trained for. */
    public final int round;
    /** Name of each label. */
    public final List<String> classNames;
    /** Height, width and channels of an image. */
    public final int[] imageShape;
    /** Maximum number of examples in a training step. */
    public final int trainBatch;
    /** Maximum number of examples in one call of evaluation. */
    public final int evaluateBatch;
    /** Number of images in one call of inference. */
    public final int inferBatch;
    /** Shape of each variable by name, sorted by name. */
    public final SortedMap<String, int[]> variables;
    /** Number of weights, without the mean squares. */
    public final int parameters;
    /** Multiply-accumulate operations for one image. */
    public final long macs;

    private ModelMetadata(byte[] file, JSONObject fields) throws JSONException {
        identity = sha256(file);
        architecture = fields.getJSONObject("architecture");
        supernetHash = fields.getString("supernet_hash");
        if (!supernetHash.matches("[0-9a-f]{64}")) {
            throw new JSONException("a hash of the supernet that is none");
        }
        round = fields.getInt("round");
        classNames = Collections.unmodifiableList(texts(fields.getJSONArray("class_names")));
        imageShape = ints(fields.getJSONObject("space").getJSONArray("image_shape"));
        if (imageShape.length != 3) {
            throw new JSONException("an image shape of " + imageShape.length + " axes");
        }
        if (architecture.has("resolution")) {
            // The space's shape is that of its largest images.
            int height = architecture.getInt("resolution");
            imageShape[1] = imageShape[1] * height / imageShape[0];
            imageShape[0] = height;
        }
        JSONObject batches = fields.getJSONObject("batch_sizes");
        trainBatch = batches.getInt(Signatures.TRAIN);
        evaluateBatch = batches.getInt(Signatures.EVALUATE);
        inferBatch = batches.getInt(Signatures.INFER);
        SortedMap<String, int[]> shapes = new TreeMap<>();
        JSONObject declared = fields.getJSONObject("variables");
        for (Iterator<String> each = declared.keys(); each.hasNext(); ) {
            String name = each.next();
            shapes.put(name, ints(declared.getJSONArray(name)));
        }
        variables = Collections.unmodifiableSortedMap(shapes);
        parameters = fields.getInt("parameters");
        macs = fields.getLong("macs");
    }

    /**
     * Reads the metadata of a model's file and checks that its model is intact: a damaged model can
     * make the runtime end the process.
     *
     * @param file the content of a .tflite file that {@code fedsup export} wrote
     * @return the metadata
     * @throws UnusableFileException if the file is not such a model, is damaged, has another
     *     version, or can only run inference
     */
    public static ModelMetadata read(byte[] file) throws UnusableFileException {
        String text;
        boolean whole;
        try {
            TrailingZip archive = new TrailingZip(file);
            text = archive.read(ENTRY, MAX_BYTES);
            byte[] model = Arrays.copyOf(file, archive.begin());
            whole = sha256(model).equals(archive.read(HASH_ENTRY, MAX_BYTES));
        } catch (IOException | RuntimeException foreign) {
            throw new UnusableFileException(
                    "This is not a model that fedsup export wrote: choose a .tflite of it.", foreign);
        }
        if (!whole) {
            throw new UnusableFileException("This model is damaged: copy it anew.");
        }
        try {
            JSONObject fields = new JSONObject(text);
            if (fields.getInt("version") != VERSION) {
                throw new UnusableFileException("This model is of version "
                        + fields.getInt("version") + ", the app reads version " + VERSION
                        + ": export it again, or update the app.");
            }
            if (fields.getJSONObject("variables").length() == 0) {
                throw new UnusableFileException(
                        "This model only infers: choose the one that fedsup export wrote beside it.");
            }
            return new ModelMetadata(file, fields);
        } catch (JSONException | RuntimeException error) {
            throw new UnusableFileException("The model's metadata is damaged: export it again.", error);
        }
    }

    /**
     * Returns whether a variable is a weight; the others are the mean squares of normalizations, which
     * are not part of an update.
     *
     * @param variable the variable's name
     * @return true if it is a weight
     */
    public static boolean isWeight(String variable) {
        return !variable.endsWith(MEAN_SQUARE);
    }

    /**
     * Returns the weights, which an update changes.
     *
     * @return the shape of each weight by name, sorted by name
     */
    public SortedMap<String, int[]> weightShapes() {
        SortedMap<String, int[]> shapes = new TreeMap<>(variables);
        shapes.keySet().removeIf(name -> !isWeight(name));
        return shapes;
    }

    /**
     * Returns a short description of the architecture, such as 16×1k3 32×1k3.
     *
     * @return width, depth and kernel size of each stage
     */
    public String architectureText() {
        StringBuilder text = new StringBuilder();
        try {
            JSONArray widths = architecture.getJSONArray("widths");
            JSONArray depths = architecture.getJSONArray("depths");
            JSONArray kernels = architecture.getJSONArray("kernels");
            for (int stage = 0; stage < widths.length(); stage++) {
                text.append(stage == 0 ? "" : "  ").append(widths.getInt(stage)).append('×')
                        .append(depths.getInt(stage)).append('k').append(kernels.getInt(stage));
            }
            return text.toString();
        } catch (JSONException unknown) {
            return architecture.toString();
        }
    }

    /**
     * Returns the size of an image in bytes, one for each value.
     *
     * @return height * width * channels
     */
    public int imageSize() {
        return count(imageShape);
    }

    /**
     * Returns an identifier of the classification task, to share examples among all its models.
     *
     * @return SHA-256 of the class names and the shape of an image
     */
    public String taskIdentity() {
        String task = classNames + Arrays.toString(imageShape);
        return sha256(task.getBytes(StandardCharsets.UTF_8));
    }

    /** Returns the number of values in a tensor. */
    static int count(int[] shape) {
        int values = 1;
        for (int length : shape) {
            values *= length;
        }
        return values;
    }

    static String sha256(byte[] data) {
        return hexadecimal(newDigest().digest(data));
    }

    static MessageDigest newDigest() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException impossible) {
            throw new AssertionError(impossible); // Every Android and every JVM has it.
        }
    }

    /** Returns two lower-case hexadecimal digits for each byte. */
    static String hexadecimal(byte[] data) {
        StringBuilder text = new StringBuilder();
        for (byte value : data) {
            text.append(Character.forDigit(value >> 4 & 15, 16));
            text.append(Character.forDigit(value & 15, 16));
        }
        return text.toString();
    }

    static List<String> texts(JSONArray array) throws JSONException {
        List<String> values = new ArrayList<>();
        for (int place = 0; place < array.length(); place++) {
            values.add(array.getString(place));
        }
        return values;
    }

    private static int[] ints(JSONArray array) throws JSONException {
        int[] values = new int[array.length()];
        for (int place = 0; place < values.length; place++) {
            values[place] = array.getInt(place);
        }
        return values;
    }
}
