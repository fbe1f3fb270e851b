package org.fedsup.trainer;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.security.MessageDigest;
import org.jspecify.annotations.Nullable;

/** Downloads a task's model into a file, and resumes a download that was interrupted. */
final class ModelDownload {
    /** Request for the model's file. */
    interface Request {
        /** Sends the request with a {@code Range} header, or for the whole file if it is null. */
        FederationConnection.Answer send(@Nullable String range) throws IOException;
    }

    private final FederationConnection connection;
    private final Task task;
    private final File file;
    private final File part;

    ModelDownload(FederationConnection connection, Task task, File file) {
        this.connection = connection;
        this.task = task;
        this.file = file;
        part = new File(file.getPath() + ".part");
    }

    /**
     * Receives the missing bytes; those that an earlier call received are kept.
     *
     * @param request the request for the model's file
     * @throws UnavailableException if the transfer fails
     * @throws IOException if something else fails
     */
    void receive(Request request) throws IOException {
        long held = part.length();
        if (held > task.modelBytes()) {
            part.delete();
            held = 0;
        }
        if (held == task.modelBytes()) {
            return;
        }
        FederationConnection.Answer answer = request.send(held > 0 ? "bytes=" + held + "-" : null);
        boolean isRest = answer.status == 206;
        long size = isRest ? held : 0;
        try (InputStream body = answer.body(); FileOutputStream out = append(isRest)) {
            byte[] received = new byte[1 << 16];
            for (int count; (count = read(body, received)) >= 0; size += count) {
                if (size + count > task.modelBytes()) {
                    throw connection.noGateway(
                            "a model of " + task.modelBytes() + " bytes, received more");
                }
                write(out, received, count);
            }
        }
        if (size < task.modelBytes()) {
            throw new UnavailableException("Expected a model of " + task.modelBytes()
                    + " bytes, received fewer.", -1, null);
        }
    }

    /**
     * Verifies the complete model and renames it to its final name.
     *
     * @throws UnavailableException if its hash is wrong; the file is then deleted
     * @throws IOException if it cannot be renamed
     */
    void finish() throws IOException {
        if (!sha256(part).equals(task.model())) {
            part.delete();
            throw new UnavailableException("Expected the model " + task.model().substring(0, 12)
                    + "..., received bytes of another hash. They were thrown away.", -1, null);
        }
        if (!part.renameTo(file)) {
            throw new IOException("Could not save the model (it could not be renamed): try again.");
        }
    }

    private int read(InputStream body, byte[] into) throws UnavailableException {
        try {
            return body.read(into);
        } catch (IOException error) {
            throw connection.noAnswer("a whole model, received a part", error);
        }
    }

    private FileOutputStream append(boolean isRest) throws IOException {
        try {
            return new FileOutputStream(part, isRest);
        } catch (IOException error) {
            throw unwritten(error);
        }
    }

    private static void write(FileOutputStream out, byte[] bytes, int count) throws IOException {
        try {
            out.write(bytes, 0, count);
        } catch (IOException error) {
            throw unwritten(error);
        }
    }

    private static IOException unwritten(IOException error) {
        return new IOException("Could not save the model (" + error.getMessage()
                + "): make room on this device and try again.", error);
    }

    private static String sha256(File file) throws IOException {
        MessageDigest digest = ModelMetadata.newDigest();
        try (InputStream in = new FileInputStream(file)) {
            byte[] bytes = new byte[1 << 16];
            for (int count; (count = in.read(bytes)) >= 0; ) {
                digest.update(bytes, 0, count);
            }
        }
        return ModelMetadata.hexadecimal(digest.digest());
    }
}
