package org.fedsup.trainer;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.zip.DataFormatException;
import java.util.zip.Inflater;

/**
 * A zip archive that follows other content in a file. Android's own zip readers require the archive
 * at the beginning of the file.
 */
final class TrailingZip {
    private static final int END_SIGNATURE = 0x06054b50;
    private static final int END_SIZE = 22;
    private static final int ENTRY_SIGNATURE = 0x02014b50;
    private static final int ENTRY_SIZE = 46;
    private static final int LOCAL_SIZE = 30;
    private static final int MAX_COMMENT = 0xffff;
    private static final int STORED = 0;
    private static final int DEFLATED = 8;

    private final ByteBuffer file;
    // Offset of each entry's record in the directory.
    private final Map<String, Integer> entries = new HashMap<>();
    private final int shift;
    private int begin = Integer.MAX_VALUE;

    /**
     * Reads the directory of a file's archive.
     *
     * @throws IOException if there is no archive, or a damaged one
     */
    TrailingZip(byte[] content) throws IOException {
        file = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN);
        try {
            int end = findEnd();
            int place = end - file.getInt(end + 12);
            // Some writers count offsets from the beginning of the archive, not of the file.
            shift = place - file.getInt(end + 16);
            for (int left = file.getShort(end + 10) & 0xffff; left > 0; left--) {
                if (file.getInt(place) != ENTRY_SIGNATURE) {
                    throw new IOException("its directory is damaged");
                }
                int length = file.getShort(place + 28) & 0xffff;
                entries.put(new String(content, place + ENTRY_SIZE, length, StandardCharsets.UTF_8), place);
                begin = Math.min(begin, local(place));
                place += ENTRY_SIZE + length + (file.getShort(place + 30) & 0xffff)
                        + (file.getShort(place + 32) & 0xffff);
            }
        } catch (IndexOutOfBoundsException damaged) {
            throw new IOException("its directory is damaged", damaged);
        }
    }

    /** Returns the offset where the archive begins and the content before it ends. */
    int begin() {
        return begin;
    }

    /**
     * Returns the text of an entry.
     *
     * @param maxBytes the maximum size in bytes; a larger entry counts as damaged, so that a small
     *     file cannot exhaust the memory
     * @throws IOException if there is no such entry, or a damaged one
     */
    String read(String name, int maxBytes) throws IOException {
        Integer entry = entries.get(name);
        if (entry == null) {
            throw new IOException("there is no " + name);
        }
        try {
            return new String(unpack(entry, maxBytes), StandardCharsets.UTF_8);
        } catch (IndexOutOfBoundsException | DataFormatException damaged) {
            throw new IOException(name + " is damaged", damaged);
        }
    }

    private int findEnd() throws IOException {
        int first = Math.max(0, file.capacity() - END_SIZE - MAX_COMMENT);
        for (int place = file.capacity() - END_SIZE; place >= first; place--) {
            if (file.getInt(place) == END_SIGNATURE) {
                return place;
            }
        }
        throw new IOException("there is no archive");
    }

    private int local(int entry) {
        return file.getInt(entry + 42) + shift;
    }

    private byte[] unpack(int entry, int maxBytes) throws IOException, DataFormatException {
        int method = file.getShort(entry + 10) & 0xffff;
        int packed = file.getInt(entry + 20);
        int size = file.getInt(entry + 24);
        boolean known = method == STORED && packed == size || method == DEFLATED;
        if (!known || size < 0 || size > maxBytes || packed < 0) {
            throw new IOException("an entry is damaged or too large");
        }
        int local = local(entry);
        int from = local + LOCAL_SIZE + (file.getShort(local + 26) & 0xffff)
                + (file.getShort(local + 28) & 0xffff);
        byte[] content = new byte[size];
        if (method == STORED) {
            System.arraycopy(file.array(), from, content, 0, size);
            return content;
        }
        Inflater inflater = new Inflater(true);
        try {
            inflater.setInput(file.array(), from, packed);
            if (inflater.inflate(content) != size) {
                throw new IOException("an entry is not whole");
            }
            return content;
        } finally {
            inflater.end();
        }
    }
}
