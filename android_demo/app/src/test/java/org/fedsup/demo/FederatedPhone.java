package org.fedsup.demo;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.List;
import org.fedsup.trainer.Example;
import org.fedsup.trainer.Federation;
import org.fedsup.trainer.Participant;
import org.fedsup.trainer.Score;
import org.fedsup.trainer.ServerAddress;
import org.json.JSONObject;

/**
 * A phone that takes part in a server's rounds, as a program. It prints a line for each accepted
 * update, with its round, and accuracy and loss on its own examples before and after training.
 *
 * <p>Arguments: a folder, the server's link, a tier, examples as {@link Phone} reads them, and the
 * number of rounds to take part in.
 */
public final class FederatedPhone {
    private FederatedPhone() {}

    public static void main(String[] arguments) throws Exception {
        File folder = new File(arguments[0]);
        List<Example> examples = Phone.examples(Files.readAllBytes(Paths.get(arguments[3])));
        JSONObject fields =
                new JSONObject().put("tier", arguments[2]).put("application", "org.fedsup.demo test");
        try {
            Federation federation =
                    new Federation(ServerAddress.parse(arguments[1], null), 20, Thread::sleep);
            Participant participant = new Participant(federation, folder, fields, 1);
            for (int left = Integer.parseInt(arguments[4]); left > 0; ) {
                Participant.Visit visit = participant.visit(model -> examples, () -> false);
                if (visit.event() == Participant.Event.SENT) {
                    left--;
                    System.out.println("sent " + visit.round() + " " + text(visit.before()) + " "
                            + text(visit.after()));
                } else if (visit.event() == Participant.Event.REFUSED) {
                    throw new IOException(visit.message());
                }
                Thread.sleep(1000L * Math.min(2, visit.waitSeconds()));
            }
        } catch (IOException error) {
            System.out.println("failed " + error.getMessage());
            System.exit(1);
        }
    }

    private static String text(Score score) {
        return score.accuracy() + " " + score.loss();
    }
}
