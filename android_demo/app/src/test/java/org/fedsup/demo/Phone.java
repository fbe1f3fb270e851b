package org.fedsup.demo;

import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.fedsup.trainer.Example;

/**
 * The app without its screen, as a program: teaches, trains and exports.
 *
 * <p>Arguments: an empty folder, a model, a file of examples (for each one a byte for the label and
 * a byte for each pixel), and the update to write.
 */
public final class Phone {
    private Phone() {}

    public static void main(String[] arguments) throws Exception {
        File folder = new File(arguments[0]);
        byte[] model = Files.readAllBytes(Paths.get(arguments[1]));
        byte[] examples = Files.readAllBytes(Paths.get(arguments[2]));
        Path update = Paths.get(arguments[3]);
        try (Learner learner = new Learner(folder, () -> model, Runnable::run)) {
            examples(examples).forEach(learner::teach);
            learner.train(() -> {});
            LearnerState state = LearnerCase.settle(learner);
            learner.export(file -> copy(file.toPath(), update));
            String problem = LearnerCase.settle(learner).problem();
            if (problem != null) {
                throw new IllegalStateException(problem);
            }
            System.out.println(state.before() + " " + state.after());
        }
    }

    /** Parses examples: for each one a byte for the label and a byte for each pixel. */
    static List<Example> examples(byte[] file) {
        int size = 1 + DigitImage.SIDE * DigitImage.SIDE;
        List<Example> found = new ArrayList<>();
        for (int place = 0; place < file.length; place += size) {
            byte[] image = Arrays.copyOfRange(file, place + 1, place + size);
            found.add(new Example(image, file[place]));
        }
        return found;
    }

    private static void copy(Path from, Path to) {
        try {
            Files.copy(from, to, StandardCopyOption.REPLACE_EXISTING);
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }
}
