package org.fedsup.demo;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.zip.CRC32;
import org.fedsup.trainer.Example;
import org.fedsup.trainer.ModelMetadata;
import org.fedsup.trainer.SafeFile;
import org.fedsup.trainer.UnusableFileException;

/**
 * The examples that a person has drawn and labelled. All models with the same classes and image
 * size share them, so that the next round's model trains on them too.
 */
public final class ExampleStore {
    /** Maximum number of examples; beyond it, the oldest are deleted. */
    static final int MOST = 2000;

    private static final int MAGIC = 0x46534558; // FSEX
    private static final int VERSION = 1;
    private static final int MAX_BYTES = 1 << 26;

    private final File file;
    private final int imageSize;
    private final int classes;
    private List<Example> examples = Collections.emptyList();

    /** Stores the examples for models like this one in a folder. */
    public ExampleStore(File folder, ModelMetadata model) {
        String name = model.taskIdentity().substring(0, 16);
        file = new File(folder, "examples-" + name + ".bin");
        imageSize = model.imageSize();
        classes = model.classNames.size();
    }

    /**
     * Reads the stored examples.
     *
     * @throws UnusableFileException if they are damaged; the store is then empty
     */
    public void load() throws IOException {
        examples = Collections.emptyList();
        if (file.exists()) {
            examples = parse(SafeFile.read(file, MAX_BYTES));
        }
    }

    /** Returns the examples, oldest first. */
    public List<Example> all() {
        return examples;
    }

    /** Adds an example and stores it; if storing fails, it is not added. */
    public void add(Example example) throws IOException {
        List<Example> more = new ArrayList<>(examples);
        more.add(example);
        save(more.subList(Math.max(0, more.size() - MOST), more.size()));
    }

    /** Deletes the newest example, if there is one. */
    public void removeNewest() throws IOException {
        save(examples.subList(0, Math.max(0, examples.size() - 1)));
    }

    /** Deletes all examples. */
    public void clear() {
        examples = Collections.emptyList();
        file.delete();
    }

    private void save(List<Example> list) throws IOException {
        List<Example> kept = Collections.unmodifiableList(new ArrayList<>(list));
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        out.writeInt(MAGIC);
        out.writeInt(VERSION);
        out.writeInt(kept.size());
        for (Example example : kept) {
            out.writeInt(example.label());
            out.write(example.image());
        }
        out.writeLong(checksum(bytes.toByteArray(), bytes.size()));
        SafeFile.replace(file, bytes::writeTo);
        examples = kept;
    }

    private List<Example> parse(byte[] content) throws IOException {
        DataInputStream in = new DataInputStream(new ByteArrayInputStream(content));
        int body = content.length - Long.BYTES;
        int count = body < 12 || in.readInt() != MAGIC || in.readInt() != VERSION ? -1 : in.readInt();
        if (count < 0 || body != 12 + (long) count * (Integer.BYTES + imageSize)) {
            throw damaged();
        }
        List<Example> found = new ArrayList<>(count);
        for (int number = 0; number < count; number++) {
            int label = in.readInt();
            byte[] image = new byte[imageSize];
            in.readFully(image);
            if (label < 0 || label >= classes) {
                throw damaged();
            }
            found.add(new Example(image, label));
        }
        if (in.readLong() != checksum(content, body)) {
            throw damaged();
        }
        return Collections.unmodifiableList(found);
    }

    private static UnusableFileException damaged() {
        return new UnusableFileException("Your drawings could not be read: start with new ones.");
    }

    private static long checksum(byte[] content, int length) {
        CRC32 checksum = new CRC32();
        checksum.update(content, 0, length);
        return checksum.getValue();
    }
}
