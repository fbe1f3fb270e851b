package org.fedsup.demo;

import android.app.ActivityManager;
import android.content.Context;
import android.content.SharedPreferences;
import android.content.pm.PackageManager;
import android.content.res.Resources;
import java.io.File;
import java.io.IOException;
import java.net.URLEncoder;
import java.text.NumberFormat;
import java.util.Arrays;
import java.util.List;
import java.util.function.BooleanSupplier;
import org.fedsup.trainer.Example;
import org.fedsup.trainer.Federation;
import org.fedsup.trainer.FederationException;
import org.fedsup.trainer.ModelMetadata;
import org.fedsup.trainer.Participant;
import org.fedsup.trainer.ServerAddress;
import org.fedsup.trainer.UnavailableException;
import org.json.JSONException;
import org.json.JSONObject;

/** Takes part in a server's rounds with the drawings on this phone, if its owner opted in. */
final class Together {
    private static final String NAME = "together";
    private static final String ON = "on";
    private static final String SERVER = "server";
    private static final String TOKEN = "token";
    private static final String OUTCOME = "outcome";

    private static final int ATTEMPTS = 3;
    // Wait before the next visit if the server did not set one.
    private static final int WAIT_SECONDS = 3600;
    // Parameters that a low-memory phone can train; others have room for all subnets of digits.
    private static final long FEW_PARAMETERS = 100_000;
    private static final long ANY_PARAMETERS = (1L << 53) - 1;

    /** Held during a visit, since a stopped one may not have ended when the next one begins. */
    private static final Object VISIT = new Object();

    private final Context context;
    private final SharedPreferences settings;

    Together(Context context) {
        this.context = context;
        settings = context.getSharedPreferences(NAME, Context.MODE_PRIVATE);
    }

    /** Returns the settings, so that a screen can watch them. */
    SharedPreferences settings() {
        return settings;
    }

    boolean isOn() {
        return settings.getBoolean(ON, false);
    }

    /** Returns the server's link or address, as it was entered. */
    String server() {
        return settings.getString(SERVER, "");
    }

    String token() {
        return settings.getString(TOKEN, "");
    }

    /** Returns a sentence on the outcome of the last visit. */
    String outcome() {
        return settings.getString(OUTCOME, context.getString(R.string.together_never));
    }

    /**
     * Starts taking part.
     *
     * @throws FederationException if the text entered is not a server's address
     */
    void turnOn(String server, String token) throws FederationException {
        ServerAddress.parse(server, token);
        settings.edit().putBoolean(ON, true).putString(SERVER, server).putString(TOKEN, token)
                .putString(OUTCOME, context.getString(R.string.together_never)).apply();
    }

    /** Stops taking part; nothing is sent from now on. */
    void turnOff() {
        settings.edit().putBoolean(ON, false).apply();
    }

    /**
     * Makes one visit to the server and stores its outcome. Do not call it on the main thread.
     *
     * @param stopped returns whether to stop
     * @return seconds until the next visit
     */
    int takePart(BooleanSupplier stopped) {
        int waitSeconds = WAIT_SECONDS;
        String outcome;
        try {
            Participant.Visit visit;
            synchronized (VISIT) {
                visit = visit(stopped);
            }
            waitSeconds = visit.waitSeconds();
            outcome = describe(visit);
        } catch (UnavailableException error) {
            waitSeconds = Math.max(WAIT_SECONDS, error.seconds);
            outcome = error.getMessage();
        } catch (IOException | RuntimeException | UnsatisfiedLinkError error) {
            outcome = error.getMessage() == null ? error.toString() : error.getMessage();
        }
        settings.edit().putString(OUTCOME, outcome).apply();
        return waitSeconds;
    }

    private Participant.Visit visit(BooleanSupplier stopped) throws IOException {
        ServerAddress server = ServerAddress.parse(server(), token());
        // The phone has a different identity at each server.
        String name = URLEncoder.encode(server.url, "UTF-8");
        File folder = new File(new File(context.getFilesDir(), NAME), name);
        Federation federation = new Federation(server, ATTEMPTS, Thread::sleep);
        // If the user turns it off during training, nothing is sent.
        return new Participant(federation, folder, fields(), 1)
                .visit(this::drawings, () -> stopped.getAsBoolean() || !isOn());
    }

    private JSONObject fields() throws IOException {
        boolean isSmall = context.getSystemService(ActivityManager.class).isLowRamDevice();
        try {
            String version =
                    context.getPackageManager().getPackageInfo(context.getPackageName(), 0).versionName;
            long parameters = isSmall ? FEW_PARAMETERS : ANY_PARAMETERS;
            return new JSONObject()
                    .put("application", context.getPackageName() + " " + version)
                    .put("capability", new JSONObject()
                            .put("parameters", parameters).put("macs", ANY_PARAMETERS));
        } catch (JSONException | PackageManager.NameNotFoundException impossible) {
            throw new IOException(impossible); // The app is installed.
        }
    }

    private List<Example> drawings(ModelMetadata model) throws IOException {
        if (!Arrays.equals(model.imageShape, Pupil.IMAGE_SHAPE)) {
            return List.of();
        }
        ExampleStore store = new ExampleStore(context.getFilesDir(), model);
        store.load();
        return store.all();
    }

    private String describe(Participant.Visit visit) {
        Resources resources = context.getResources();
        switch (visit.event()) {
            case SENT:
                NumberFormat percent = NumberFormat.getPercentInstance();
                int count = visit.after().examples();
                return resources.getQuantityString(R.plurals.together_sent, count, count, visit.round(),
                        percent.format(visit.before().accuracy()),
                        percent.format(visit.after().accuracy()));
            case REFUSED:
                return resources.getString(R.string.together_refused, visit.round(), visit.message());
            case NEEDS_EXAMPLES:
                return resources.getString(R.string.together_needs);
            case STOPPED:
                return resources.getString(R.string.together_stopped);
            default:
                return resources.getString(R.string.together_waits);
        }
    }
}
