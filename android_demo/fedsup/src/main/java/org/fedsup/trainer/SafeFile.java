package org.fedsup.trainer;

import java.io.BufferedOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;

/** Writes files completely or not at all, whatever happens meanwhile. */
public final class SafeFile {
    /** The content of a file. */
    public interface Content {
        /**
         * Writes the content.
         *
         * @param out the stream to write to
         * @throws UnusableFileException if there is no usable content
         * @throws IOException if writing fails; in both cases the file is left unchanged
         */
        void writeTo(OutputStream out) throws IOException;
    }

    private SafeFile() {}

    /**
     * Replaces a file: writes a temporary file next to it, syncs it to disk and renames it. If the
     * process is killed or the disk is full, the old file stays; a temporary file that a kill left
     * behind is overwritten by the next write.
     *
     * @param target the file to replace
     * @param content the new content
     * @throws UnusableFileException as {@code content} throws it
     * @throws IOException if it could not be written; the message is meant for the user
     */
    public static void replace(File target, Content content) throws IOException {
        File temporary = new File(target.getParentFile(), "." + target.getName() + ".part");
        try {
            try (FileOutputStream file = new FileOutputStream(temporary)) {
                BufferedOutputStream out = new BufferedOutputStream(file);
                content.writeTo(out);
                out.flush();
                file.getFD().sync();
            }
            if (!temporary.renameTo(target)) {
                throw new IOException("it could not be renamed");
            }
        } catch (UnusableFileException error) {
            throw error; // There is no content to write; more room would not help.
        } catch (IOException error) {
            throw new IOException("Could not save " + target.getName() + " (" + error.getMessage()
                    + "): make room on this device and try again.", error);
        } finally {
            temporary.delete(); // Already gone on success.
        }
    }

    /**
     * Reads a file.
     *
     * @param file the file
     * @param maxBytes the maximum size in bytes; a larger file is not read
     * @return the file's content
     * @throws UnusableFileException if it is larger
     * @throws IOException if it cannot be read
     */
    public static byte[] read(File file, int maxBytes) throws IOException {
        try (InputStream in = new FileInputStream(file)) {
            return read(in, maxBytes);
        }
    }

    /**
     * Reads a stream to its end.
     *
     * @param in the stream, which stays open
     * @param maxBytes the maximum length in bytes; reading stops beyond it
     * @return the stream's content
     * @throws UnusableFileException if it is longer
     * @throws IOException if it cannot be read
     */
    public static byte[] read(InputStream in, int maxBytes) throws IOException {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        byte[] part = new byte[1 << 16];
        for (int count; (count = in.read(part)) >= 0; ) {
            if (all.size() + count > maxBytes) {
                throw new UnusableFileException("This file is too large: expected at most "
                        + (maxBytes >> 20) + " MB.");
            }
            all.write(part, 0, count);
        }
        return all.toByteArray();
    }
}
