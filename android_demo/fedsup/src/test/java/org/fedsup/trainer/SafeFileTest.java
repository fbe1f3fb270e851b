package org.fedsup.trainer;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Tests that a file is written completely or not at all. */
public class SafeFileTest {
    private static final byte[] OLD = "what was there before".getBytes();
    private static final byte[] NEW = new byte[100_000];

    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private File file() {
        return new File(folder.getRoot(), "file");
    }

    private void writeOld() throws IOException {
        SafeFile.replace(file(), out -> out.write(OLD));
    }

    private void assertOnly(byte[] content) throws IOException {
        assertArrayEquals(content, Files.readAllBytes(file().toPath()));
        assertEquals(1, folder.getRoot().list().length);
    }

    /** Writes a complete new file and dies before renaming it, as if killed. */
    public static final class Killed {
        public static void main(String[] arguments) throws IOException {
            SafeFile.replace(new File(arguments[0]), out -> {
                out.write(NEW);
                out.flush();
                Runtime.getRuntime().halt(9);
            });
        }
    }

    @Test
    public void replacesAFile() throws Exception {
        writeOld();
        SafeFile.replace(file(), out -> out.write(NEW));
        assertOnly(NEW);
    }

    @Test
    public void aKillBeforeTheRenameLeavesWhatWasThere() throws Exception {
        writeOld();
        Process process = Children.start(Killed.class, file().getPath());
        assertEquals(9, process.waitFor());
        assertEquals("a temporary file was left", 2, folder.getRoot().list().length);
        assertArrayEquals(OLD, SafeFile.read(file(), 1 << 20));
        SafeFile.replace(file(), out -> out.write(NEW));
        assertOnly(NEW);
    }

    @Test
    public void aFullDiskLeavesWhatWasThere() throws Exception {
        writeOld();
        // Writing to /dev/full fails as on a full disk.
        Path temporary = folder.getRoot().toPath().resolve(".file.part");
        Files.createSymbolicLink(temporary, Paths.get("/dev/full"));
        String message = assertThrows(IOException.class,
                () -> SafeFile.replace(file(), out -> out.write(NEW))).getMessage();
        assertTrue(message, message.contains("No space left on device"));
        assertTrue(message, message.endsWith("make room on this device and try again."));
        assertOnly(OLD);
        SafeFile.replace(file(), out -> out.write(NEW));
        assertOnly(NEW);
    }

    @Test
    public void aWriterThatFailsLeavesWhatWasThere() throws Exception {
        writeOld();
        assertThrows(IOException.class, () -> SafeFile.replace(file(), out -> {
            out.write(NEW);
            throw new IOException("no more");
        }));
        assertOnly(OLD);
    }

    @Test
    public void aWritersOwnSentenceIsKept() throws Exception {
        writeOld();
        UnusableFileException own = new UnusableFileException("Choose another.");
        assertSame(own, assertThrows(IOException.class, () -> SafeFile.replace(file(), out -> {
            throw own;
        })));
        assertOnly(OLD);
    }

    @Test
    public void readsNoMoreThanItShould() throws Exception {
        writeOld();
        assertArrayEquals(OLD, SafeFile.read(file(), OLD.length));
        assertThrows(UnusableFileException.class, () -> SafeFile.read(file(), OLD.length - 1));
    }
}
