package org.fedsup.trainer;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Iterator;
import java.util.SortedMap;
import java.util.TreeMap;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Float tensors and JSON metadata in a safetensors file, as fedsup_tf/files/checkpoint.py writes
 * them; tflite/format/update_file.py describes the bytes.
 *
 * @param metadata any JSON object
 * @param values row-major values of each tensor by name
 */
record SafeTensors(JSONObject metadata, SortedMap<String, float[]> values) {
    private static final String TEXTS = "__metadata__";
    private static final String TEXT = "fedsup-tf";
    private static final String FLOAT = "F32";
    private static final int VERSION = 1;
    private static final int ALIGNMENT = 8;

    /** Writes the tensors that {@code shapes} names, sorted by name. */
    void write(OutputStream out, String kind, SortedMap<String, int[]> shapes) throws IOException {
        byte[] header;
        try {
            header = header(kind, shapes).toString().getBytes(StandardCharsets.UTF_8);
        } catch (JSONException error) {
            throw new IOException(error.getMessage(), error);
        }
        byte[] padded = Arrays.copyOf(header, (header.length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
        Arrays.fill(padded, header.length, padded.length, (byte) ' ');
        out.write(buffer(Long.BYTES).putLong(padded.length).array());
        out.write(padded);
        for (String name : shapes.keySet()) {
            out.write(bytes(values.get(name)));
        }
    }

    /**
     * Reads a file of the given kind, with exactly the tensors of the given names and shapes.
     *
     * @throws UnusableFileException if it is another file or incomplete
     */
    static SafeTensors read(byte[] file, String kind, SortedMap<String, int[]> shapes)
            throws UnusableFileException {
        try {
            ByteBuffer buffer = ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN);
            long headerLength = buffer.getLong();
            if (headerLength < 2 || headerLength > buffer.remaining()) {
                throw new UnusableFileException("it is not whole");
            }
            int begin = Long.BYTES + (int) headerLength;
            JSONObject header = new JSONObject(
                    new String(file, Long.BYTES, (int) headerLength, StandardCharsets.UTF_8));
            JSONObject text = new JSONObject(header.getJSONObject(TEXTS).getString(TEXT));
            if (!text.getString("kind").equals(kind) || text.getInt("version") != VERSION) {
                throw new UnusableFileException("it is of another kind or version");
            }
            header.remove(TEXTS);
            SortedMap<String, float[]> values = new TreeMap<>();
            int expectedSize = 0;
            for (String name : shapes.keySet()) {
                JSONObject tensor = header.getJSONObject(name);
                int[] shape = shapes.get(name);
                int size = Float.BYTES * ModelMetadata.count(shape);
                int from = tensor.getJSONArray("data_offsets").getInt(0);
                int to = tensor.getJSONArray("data_offsets").getInt(1);
                if (!tensor.getString("dtype").equals(FLOAT)
                        || !tensor.getJSONArray("shape").toString().equals(json(shape).toString())
                        || from < 0 || to - from != size || to > file.length - begin) {
                    throw new UnusableFileException("its tensor " + name + " is not as expected");
                }
                values.put(name, floats(file, begin + from, shape));
                expectedSize += size;
            }
            if (header.length() != shapes.size() || file.length - begin != expectedSize) {
                throw new UnusableFileException("it holds more or less than expected");
            }
            return new SafeTensors(text.getJSONObject("metadata"), values);
        } catch (JSONException | RuntimeException damaged) {
            throw new UnusableFileException("it is damaged", damaged);
        }
    }

    /** Returns the SHA-256 of the names and values, to detect damage. */
    String fingerprint() {
        int size = 0;
        for (SortedMap.Entry<String, float[]> tensor : values.entrySet()) {
            size += name(tensor).length + Float.BYTES * tensor.getValue().length;
        }
        ByteBuffer all = buffer(size);
        for (SortedMap.Entry<String, float[]> tensor : values.entrySet()) {
            all.put(name(tensor)).put(bytes(tensor.getValue()));
        }
        return ModelMetadata.sha256(all.array());
    }

    private JSONObject header(String kind, SortedMap<String, int[]> shapes) throws JSONException {
        JSONObject text = new JSONObject()
                .put("kind", kind).put("version", VERSION).put("metadata", metadata);
        JSONObject header = new JSONObject();
        header.put(TEXTS, new JSONObject().put(TEXT, text.toString()));
        int offset = 0;
        for (String name : shapes.keySet()) {
            int end = offset + Float.BYTES * values.get(name).length;
            header.put(name, new JSONObject()
                    .put("dtype", FLOAT)
                    .put("shape", json(shapes.get(name)))
                    .put("data_offsets", json(new int[] {offset, end})));
            offset = end;
        }
        return header;
    }

    private static byte[] name(SortedMap.Entry<String, float[]> tensor) {
        return (tensor.getKey() + "\n").getBytes(StandardCharsets.UTF_8);
    }

    private static JSONArray json(int[] numbers) {
        JSONArray array = new JSONArray();
        for (int number : numbers) {
            array.put(number);
        }
        return array;
    }

    private static byte[] bytes(float[] values) {
        ByteBuffer buffer = buffer(Float.BYTES * values.length);
        buffer.asFloatBuffer().put(values);
        return buffer.array();
    }

    private static float[] floats(byte[] file, int begin, int[] shape) {
        float[] values = new float[ModelMetadata.count(shape)];
        ByteBuffer.wrap(file, begin, Float.BYTES * values.length)
                .order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values);
        return values;
    }

    private static ByteBuffer buffer(int size) {
        return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
    }
}
