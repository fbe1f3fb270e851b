package org.fedsup.demo;

import android.app.Application;
import android.os.Handler;
import android.os.Looper;
import java.io.IOException;
import java.io.InputStream;
import org.fedsup.trainer.SafeFile;

/** Holds the process's only {@link Learner}, which screens and jobs share. */
public final class DemoApplication extends Application {
    private static final String MODEL = "subnet.tflite";

    private Learner learner;

    /** Returns the learner, created on the first call. Call it on the main thread only. */
    Learner learner() {
        if (learner == null) {
            Handler screen = new Handler(Looper.getMainLooper());
            learner = new Learner(getFilesDir(), this::builtInModel, screen::post);
        }
        return learner;
    }

    @Override
    public void onTerminate() {
        super.onTerminate();
        if (learner != null) {
            learner.close();
            learner = null;
        }
    }

    private byte[] builtInModel() throws IOException {
        try (InputStream in = getAssets().open(MODEL)) {
            return SafeFile.read(in, Learner.MAX_MODEL_BYTES);
        }
    }
}
