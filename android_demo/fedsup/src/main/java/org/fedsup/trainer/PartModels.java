package org.fedsup.trainer;

import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Models of the parts of a search space's subnets, and of some whole subnets: the zip archive that
 * {@code fedsup profile --parts} writes, which tflite/profiling/part_models.py describes.
 */
public final class PartModels implements Closeable {
    private static final String ENTRY = "parts.json";
    private static final String KIND = "fedsup-tf parts";
    private static final int VERSION = 1;
    private static final int MAX_TEXT_BYTES = 1 << 24;
    private static final int MAX_MODEL_BYTES = 1 << 28;

    /**
     * A model of a few parts. Its signatures {@code infer_0} and {@code train_0} compute nothing,
     * {@code infer_1} and {@code train_1} compute its first row, and so on.
     *
     * @param entry name in the archive
     * @param rows the parts, as rows of a latency table
     */
    record Group(String entry, List<JSONObject> rows) {}

    /**
     * A whole subnet.
     *
     * @param entry name in the archive
     * @param rows its parts, as indices into the rows of all groups
     * @param fitted whether the factors are fitted on it; otherwise the error is measured on it
     */
    record Subnet(String entry, int[] rows, boolean fitted) {}

    final JSONObject space;
    final int inferBatch;
    final int trainBatch;
    final int threads;
    final int repetitions;
    final List<Group> groups = new ArrayList<>();
    final List<Subnet> subnets = new ArrayList<>();
    /** Indices of the stems in the rows of all groups: one for each resolution. */
    final List<Integer> stems = new ArrayList<>();
    private final ZipFile archive;

    /**
     * Opens an archive and reads its list of models; models are read when they are measured.
     *
     * @param file the archive
     * @throws UnusableFileException if it is another file or incomplete
     */
    public PartModels(File file) throws UnusableFileException {
        ZipFile opened = null;
        try {
            opened = new ZipFile(file);
            archive = opened;
            JSONObject fields =
                    new JSONObject(new String(read(ENTRY, MAX_TEXT_BYTES), StandardCharsets.UTF_8));
            if (!fields.getString("kind").equals(KIND) || fields.getInt("version") != VERSION) {
                throw new IOException("it is of another kind or version");
            }
            space = fields.getJSONObject("space");
            inferBatch = positive(fields, "infer_batch_size");
            trainBatch = positive(fields, "train_batch_size");
            threads = positive(fields, "threads");
            repetitions = positive(fields, "repetitions");
            int rows = readGroups(fields.getJSONArray("groups"));
            readSubnets(fields.getJSONArray("subnets"), rows);
        } catch (IOException | JSONException | RuntimeException error) {
            if (opened != null) {
                close(opened);
            }
            throw new UnusableFileException("This is no file of part models (" + error.getMessage()
                    + "): expected what fedsup profile --parts wrote.", error);
        }
    }

    /** Returns the content of a model's file. */
    byte[] model(String entry) throws UnusableFileException {
        try {
            return read(entry, MAX_MODEL_BYTES);
        } catch (IOException | RuntimeException error) {
            throw new UnusableFileException("These part models are damaged (" + error.getMessage()
                    + "): copy the file anew.", error);
        }
    }

    @Override
    public void close() {
        close(archive);
    }

    private int readGroups(JSONArray given) throws IOException, JSONException {
        int all = 0;
        for (int number = 0; number < given.length(); number++) {
            JSONArray parts = given.getJSONObject(number).getJSONArray("rows");
            List<JSONObject> rows = new ArrayList<>();
            for (int place = 0; place < parts.length(); place++) {
                rows.add(parts.getJSONObject(place));
                if (rows.get(place).getString("kind").equals("stem")) {
                    stems.add(all + place);
                }
            }
            all += rows.size();
            groups.add(new Group(given.getJSONObject(number).getString("entry"), rows));
        }
        if (stems.isEmpty()) {
            throw new IOException("it has no stem");
        }
        return all;
    }

    private void readSubnets(JSONArray given, int rows) throws IOException, JSONException {
        for (int number = 0; number < given.length(); number++) {
            JSONObject fields = given.getJSONObject(number);
            JSONArray numbers = fields.getJSONArray("rows");
            int[] parts = new int[numbers.length()];
            for (int place = 0; place < parts.length; place++) {
                parts[place] = numbers.getInt(place);
                if (parts[place] < 0 || parts[place] >= rows) {
                    throw new IOException("a subnet has a part that is none");
                }
            }
            subnets.add(new Subnet(fields.getString("entry"), parts, fields.getBoolean("fitted")));
        }
        if (subnets.stream().allMatch(Subnet::fitted)) {
            throw new IOException("it has no subnet to state the error on");
        }
    }

    private byte[] read(String name, int maxBytes) throws IOException {
        ZipEntry entry = archive.getEntry(name);
        if (entry == null) {
            throw new IOException("there is no " + name);
        }
        try (InputStream in = archive.getInputStream(entry)) {
            byte[] content = SafeFile.read(in, maxBytes);
            // Java verifies the checksum only if an archive is read sequentially.
            CRC32 checksum = new CRC32();
            checksum.update(content, 0, content.length);
            if (checksum.getValue() != entry.getCrc()) {
                throw new IOException(name + " has changed");
            }
            return content;
        }
    }

    private static int positive(JSONObject fields, String name) throws IOException, JSONException {
        int value = fields.getInt(name);
        if (value < 1) {
            throw new IOException(name + " is " + value);
        }
        return value;
    }

    private static void close(ZipFile archive) {
        try {
            archive.close();
        } catch (IOException nothingWasWritten) {
            // Nothing can be lost.
        }
    }
}
