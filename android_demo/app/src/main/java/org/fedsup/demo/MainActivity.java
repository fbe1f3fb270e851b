package org.fedsup.demo;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.ClipData;
import android.content.Intent;
import android.net.Uri;
import android.os.Build;
import android.os.Bundle;
import android.view.MenuItem;
import android.view.View;
import android.widget.PopupMenu;
import android.widget.Switch;
import android.widget.Toast;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.function.Consumer;
import org.fedsup.trainer.Example;
import org.fedsup.trainer.SafeFile;
import org.fedsup.trainer.UnusableFileException;

/** The only screen: draw, teach, train, send. A {@link Learner} keeps the state that it shows. */
public final class MainActivity extends Activity {
    static final int OPEN_MODEL = 1;
    static final int SAVE_UPDATE = 2;
    static final int MEASURE = 3;
    private static final String DRAWING = "drawing";
    private static final String UPDATE = "update";

    private final Consumer<LearnerState> watcher = this::show;
    private Learner learner;
    private Screen screen;
    private DrawingView canvas;
    private boolean training;
    private String updateToSave;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.main);
        learner = ((DemoApplication) getApplication()).learner();
        screen = new Screen(this, this::teach);
        canvas = findViewById(R.id.drawing);
        canvas.setOnDrawn(this::classify);
        onClick(R.id.clear, view -> canvas.clear());
        onClick(R.id.undo, view -> learner.removeLast());
        onClick(R.id.train, view -> trainOrStop());
        onClick(R.id.share, view -> learner.export(this::share));
        onClick(R.id.save, view -> learner.export(this::save));
        onClick(R.id.open_model, view -> start(new Intent(Intent.ACTION_OPEN_DOCUMENT)
                .addCategory(Intent.CATEGORY_OPENABLE).setType("*/*"), OPEN_MODEL));
        onClick(R.id.more, this::showMore);
        findViewById(R.id.more).setOnLongClickListener(this::showHidden);
        onClick(R.id.problem, view -> learner.report(null));
        Switch whileCharging = findViewById(R.id.while_charging);
        whileCharging.setChecked(TrainingJobService.isScheduled(this));
        whileCharging.setOnCheckedChangeListener(
                (view, wanted) -> TrainingJobService.setScheduled(this, wanted));
        if (saved != null) {
            canvas.drawing().unpack(saved.getFloatArray(DRAWING));
            updateToSave = saved.getString(UPDATE);
        }
    }

    @Override
    protected void onStart() {
        super.onStart();
        learner.watch(watcher);
        classify();
    }

    @Override
    protected void onStop() {
        learner.unwatch(watcher);
        super.onStop();
    }

    @Override
    protected void onSaveInstanceState(Bundle saved) {
        super.onSaveInstanceState(saved);
        saved.putFloatArray(DRAWING, canvas.drawing().pack());
        saved.putString(UPDATE, updateToSave);
    }

    private void show(LearnerState state) {
        training = state.training();
        screen.show(state, !canvas.drawing().isEmpty());
    }

    // ------------------------------------------------------------------ user actions

    private void classify() {
        byte[] image = canvas.drawing().isEmpty() ? null : DigitImage.of(canvas.drawing());
        screen.showPreview(image);
        learner.classify(image);
    }

    private void teach(int label) {
        if (canvas.drawing().isEmpty()) {
            return; // The button was tapped again before it was disabled.
        }
        learner.teach(new Example(DigitImage.of(canvas.drawing()), label));
        canvas.clear();
    }

    private void trainOrStop() {
        if (training) {
            learner.cancel();
        } else {
            learner.train(() -> {});
        }
    }

    private void showMore(View anchor) {
        PopupMenu menu = new PopupMenu(this, anchor);
        menu.inflate(R.menu.more);
        menu.setOnMenuItemClickListener(this::onMore);
        menu.show();
    }

    private boolean onMore(MenuItem item) {
        if (item.getItemId() == R.id.open_built_in) {
            learner.openBuiltIn();
        } else if (item.getItemId() == R.id.forget) {
            learner.forget();
        } else {
            learner.deleteExamples();
        }
        return true;
    }

    /** Shows a menu for people who make supernets, which others do not need. */
    private boolean showHidden(View anchor) {
        PopupMenu menu = new PopupMenu(this, anchor);
        menu.inflate(R.menu.hidden);
        menu.setOnMenuItemClickListener(item -> {
            start(new Intent(Intent.ACTION_OPEN_DOCUMENT)
                    .addCategory(Intent.CATEGORY_OPENABLE).setType("*/*"), MEASURE);
            return true;
        });
        menu.show();
        return true;
    }

    // ------------------------------------------------------- files in and out of the app

    private void share(File update) {
        Uri uri = UpdateProvider.uri(this, update);
        Intent send = new Intent(Intent.ACTION_SEND).setType(UpdateProvider.TYPE)
                .putExtra(Intent.EXTRA_STREAM, uri)
                .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION);
        send.setClipData(ClipData.newRawUri(update.getName(), uri)); // Carries the permission.
        startActivity(Intent.createChooser(send, getString(R.string.share_title)));
    }

    private void save(File update) {
        updateToSave = update.getPath();
        start(new Intent(Intent.ACTION_CREATE_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE)
                .setType(UpdateProvider.TYPE).putExtra(Intent.EXTRA_TITLE, update.getName()), SAVE_UPDATE);
    }

    private void start(Intent intent, int request) {
        try {
            startActivityForResult(intent, request);
        } catch (ActivityNotFoundException none) {
            learner.report(getString(R.string.no_app));
        }
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (result != RESULT_OK || data == null || data.getData() == null) {
            return;
        }
        Uri uri = data.getData();
        if (request == OPEN_MODEL) {
            learner.openModel(() -> read(uri));
        } else if (request == MEASURE) {
            String machine = Build.MANUFACTURER + " " + Build.MODEL + ", Android " + Build.VERSION.RELEASE;
            Toast.makeText(this, R.string.measuring, Toast.LENGTH_LONG).show();
            learner.measure(out -> copy(uri, out), machine, this::share);
        } else if (request == SAVE_UPDATE && updateToSave != null) {
            // "t" truncates a document that was longer.
            learner.copy(new File(updateToSave), () -> getContentResolver().openOutputStream(uri, "wt"),
                    () -> Toast.makeText(this, R.string.saved, Toast.LENGTH_SHORT).show());
        }
    }

    private byte[] read(Uri uri) throws IOException {
        try (InputStream in = open(uri)) {
            return SafeFile.read(in, Learner.MAX_MODEL_BYTES);
        }
    }

    private void copy(Uri uri, OutputStream out) throws IOException {
        try (InputStream in = open(uri)) {
            byte[] part = new byte[1 << 16];
            for (int count; (count = in.read(part)) >= 0; ) {
                out.write(part, 0, count);
            }
        }
    }

    private InputStream open(Uri uri) throws UnusableFileException {
        try {
            return getContentResolver().openInputStream(uri);
        } catch (FileNotFoundException | SecurityException error) {
            throw new UnusableFileException("This file could not be opened: choose another.", error);
        }
    }

    private void onClick(int view, View.OnClickListener listener) {
        findViewById(view).setOnClickListener(listener);
    }
}
