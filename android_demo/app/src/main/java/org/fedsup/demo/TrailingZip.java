package org.fedsup.demo;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.zip.DataFormatException;
import java.util.zip.Inflater;

/**
 * Reads an entry of a zip archive that stands behind something else in a file. Android's own zip
 * readers want a file that begins with an archive.
 */
final class TrailingZip {
    private static final int END_SIGNATURE = 0x06054b50;
    private static final int END_SIZE = 22;
    private static final int ENTRY_SIGNATURE = 0x02014b50;
    private static final int ENTRY_SIZE = 46;
    private static final int LOCAL_SIZE = 30;
    private static final int MOST_COMMENT = 0xffff;
    private static final int STORED = 0;
    private static final int DEFLATED = 8;

    private TrailingZip() {}

    /**
     * Returns the bytes of an entry, or null if there is no archive or no such entry.
     *
     * @param mostBytes size above which an entry counts as damaged, so that a small file cannot
     *     fill the memory
     */
    static byte[] read(byte[] file, String name, int mostBytes) {
        ByteBuffer buffer = ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN);
        try {
            int end = findEnd(buffer);
            if (end < 0) {
                return null;
            }
            int entries = buffer.getShort(end + 10) & 0xffff;
            int size = buffer.getInt(end + 12);
            int place = end - size;
            // Some writers count offsets from the archive's begin and not from the file's.
            int shift = place - buffer.getInt(end + 16);
            for (int number = 0; number < entries; number++) {
                if (buffer.getInt(place) != ENTRY_SIGNATURE) {
                    return null;
                }
                int nameLength = buffer.getShort(place + 28) & 0xffff;
                String found = new String(file, place + ENTRY_SIZE, nameLength, StandardCharsets.UTF_8);
                if (found.equals(name)) {
                    return unpack(buffer, place, shift, mostBytes);
                }
                int extraLength = buffer.getShort(place + 30) & 0xffff;
                int commentLength = buffer.getShort(place + 32) & 0xffff;
                place += ENTRY_SIZE + nameLength + extraLength + commentLength;
            }
            return null;
        } catch (IndexOutOfBoundsException | DataFormatException damaged) {
            return null;
        }
    }

    private static int findEnd(ByteBuffer buffer) {
        int first = Math.max(0, buffer.capacity() - END_SIZE - MOST_COMMENT);
        for (int place = buffer.capacity() - END_SIZE; place >= first; place--) {
            if (buffer.getInt(place) == END_SIGNATURE) {
                return place;
            }
        }
        return -1;
    }

    private static byte[] unpack(ByteBuffer buffer, int entry, int shift, int mostBytes)
            throws DataFormatException {
        int method = buffer.getShort(entry + 10) & 0xffff;
        int packed = buffer.getInt(entry + 20);
        int size = buffer.getInt(entry + 24);
        int local = buffer.getInt(entry + 42) + shift;
        if (size < 0 || size > mostBytes || packed < 0 || method != STORED && method != DEFLATED) {
            return null;
        }
        int skipped = (buffer.getShort(local + 26) & 0xffff) + (buffer.getShort(local + 28) & 0xffff);
        int begin = local + LOCAL_SIZE + skipped;
        byte[] content = new byte[size];
        if (method == STORED) {
            System.arraycopy(buffer.array(), begin, content, 0, size);
            return content;
        }
        Inflater inflater = new Inflater(true);
        try {
            inflater.setInput(buffer.array(), begin, packed);
            int read = inflater.inflate(content);
            return read == size ? content : null;
        } finally {
            inflater.end();
        }
    }
}
