import java.io.File;
import java.io.FileInputStream;
import java.io.InputStream;
import java.util.List;
import java.util.Set;
import org.codehaus.mojo.animal_sniffer.SignatureChecker;
import org.codehaus.mojo.animal_sniffer.logging.PrintWriterLogger;

/**
 * Fails if classes use an API that the oldest supported Android lacks, as Android Studio's lint
 * does. The compiler cannot detect this: it sees the newest Android and this machine's Java.
 */
public final class CheckApi {
    /** Classes in the app, and those that D8 replaces, of records and string concatenation. */
    private static final Set<String> BROUGHT = Set.of(
            "org.fedsup.demo.*", "org.fedsup.trainer.*", "org.jspecify.annotations.*",
            "org.tensorflow.lite.*", "java.lang.Record",
            "java.lang.runtime.ObjectMethods", "java.lang.invoke.StringConcatFactory");

    /** Arguments: the signature of the oldest Android, and folders of classes. */
    public static void main(String[] arguments) throws Exception {
        try (InputStream signature = new FileInputStream(arguments[0])) {
            SignatureChecker checker =
                    new SignatureChecker(signature, BROUGHT, new PrintWriterLogger(System.err));
            checker.setSourcePath(List.of());
            for (int place = 1; place < arguments.length; place++) {
                checker.process(new File(arguments[place]));
            }
            if (checker.isSignatureBroken()) {
                System.exit(1);
            }
        }
    }
}
