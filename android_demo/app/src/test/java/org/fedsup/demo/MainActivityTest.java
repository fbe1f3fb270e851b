package org.fedsup.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.app.Activity;
import android.content.Intent;
import android.net.Uri;
import android.os.ParcelFileDescriptor;
import android.os.SystemClock;
import android.view.MotionEvent;
import android.view.View;
import android.view.ViewGroup;
import android.widget.PopupMenu;
import android.widget.TextView;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.fedsup.trainer.Golden;
import org.fedsup.trainer.ModelMetadata;
import org.fedsup.trainer.SafeFile;
import org.fedsup.trainer.UpdateFile;
import org.json.JSONObject;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.shadows.ShadowContentResolver;
import org.robolectric.shadows.ShadowLooper;
import org.robolectric.shadows.ShadowPopupMenu;

/** The app as a person uses it, in a simulated Android with the real engine. */
@RunWith(AppRunner.class)
public class MainActivityTest extends ActivityCase {
    @Before
    public void open() throws Exception {
        show(null);
    }

    @After
    public void close() {
        controller.pause().stop().destroy();
        application().onTerminate();
    }

    private String text(int view) {
        return ((TextView) activity.findViewById(view)).getText().toString();
    }

    private boolean enabled(int view) {
        return activity.findViewById(view).isEnabled();
    }

    private void tap(int view) throws Exception {
        assertTrue(enabled(view));
        activity.findViewById(view).performClick();
        settle();
    }

    /** Draws with a finger. */
    private void draw(Drawing drawing) throws Exception {
        View canvas = activity.findViewById(R.id.drawing);
        float side = canvas.getWidth();
        assertTrue("the canvas has a size", side > 100);
        long start = SystemClock.uptimeMillis();
        for (float[] stroke : drawing.strokes()) {
            for (int place = 0; place < stroke.length; place += 2) {
                touch(canvas, start, place == 0 ? MotionEvent.ACTION_DOWN : MotionEvent.ACTION_MOVE,
                        stroke[place] * side, stroke[place + 1] * side);
            }
            touch(canvas, start, MotionEvent.ACTION_UP, 0, 0);
        }
        settle();
    }

    private static void touch(View view, long start, int action, float x, float y) {
        MotionEvent event = MotionEvent.obtain(start, start, action, x, y, 0);
        view.dispatchTouchEvent(event);
        event.recycle();
    }

    private View label(int digit) {
        ViewGroup rows = activity.findViewById(R.id.labels);
        return ((ViewGroup) rows.getChildAt(digit / 5)).getChildAt(digit % 5);
    }

    private void teach(int count) throws Exception {
        Random random = new Random(4);
        for (int number = 0; number < count; number++) {
            draw(Handwriting.draw(number % 10, 0.75f, 0.02f, random));
            assertTrue(label(number % 10).isEnabled());
            label(number % 10).performClick();
        }
        settle();
    }

    /** Another activity over the same files, as after the process died. */
    private void restart() throws Exception {
        controller.pause().stop().destroy();
        Learner learner = application().learner();
        application().onTerminate();
        assertTrue(learner.worker.awaitTermination(60, TimeUnit.SECONDS));
        open();
    }

    private void answer(int request, Uri uri) throws Exception {
        Intent asked = shadowOf(activity).getNextStartedActivityForResult().intent;
        shadowOf(activity).receiveResult(asked, Activity.RESULT_OK, new Intent().setData(uri));
        settle();
    }

    private void openModel(byte[] file) throws Exception {
        Uri uri = Uri.parse("content://documents/" + file.length);
        ShadowContentResolver resolver = shadowOf(activity.getContentResolver());
        resolver.registerInputStream(uri, new ByteArrayInputStream(file));
        tap(R.id.open_model);
        answer(MainActivity.OPEN_MODEL, uri);
    }

    @Test
    public void opensWithACertifiedModelAndAnEmptySquare() throws Exception {
        ModelMetadata model = ModelMetadata.read(Golden.model());
        assertEquals(model.architectureText(), text(R.id.architecture));
        assertEquals(String.format("%,d", model.parameters), text(R.id.parameters));
        assertEquals(String.format("%,d", model.macs), text(R.id.macs));
        assertEquals(String.valueOf(model.round), text(R.id.round));
        assertEquals(activity.getString(R.string.model_built_in), text(R.id.origin));
        assertEquals(View.GONE, activity.findViewById(R.id.problem).getVisibility());
        for (int view : new int[] {R.id.clear, R.id.train, R.id.share, R.id.save, R.id.undo}) {
            assertFalse(enabled(view));
        }
        assertFalse(label(3).isEnabled());
        assertTrue(enabled(R.id.open_model));
    }

    @Test
    public void answersADrawingAndForgetsItWhenCleared() throws Exception {
        draw(Handwriting.draw(2, 0.1f, 0, new Random(1)));
        assertEquals("2", text(R.id.answer));
        assertTrue(text(R.id.confidence), text(R.id.confidence).matches("\\d+% sure"));
        tap(R.id.clear);
        assertEquals(activity.getString(R.string.answer_none), text(R.id.answer));
        assertFalse(enabled(R.id.clear));
    }

    @Test
    public void teachesTrainsAndRemembers() throws Exception {
        teach(20);
        assertTrue(text(R.id.drawings), text(R.id.drawings).startsWith("20 drawings of 0, 1, 2"));
        assertTrue(enabled(R.id.train));
        tap(R.id.train);
        String before = text(R.id.before);
        String after = text(R.id.after);
        assertTrue(before + " " + after, percent(after) > percent(before));
        assertEquals(activity.getString(R.string.train), text(R.id.train));
        String curve = activity.findViewById(R.id.chart).getContentDescription().toString();
        assertTrue(curve, curve.startsWith("Loss after 40 steps"));
        assertTrue(enabled(R.id.share));

        restart();
        assertEquals(before, text(R.id.before));
        assertEquals(after, text(R.id.after));
        assertTrue(text(R.id.drawings).startsWith("20 drawings"));
        assertEquals(curve, activity.findViewById(R.id.chart).getContentDescription().toString());
        tap(R.id.undo);
        assertTrue(text(R.id.drawings).startsWith("19 drawings"));
    }

    private static int percent(String text) {
        return Integer.parseInt(text.replace("%", ""));
    }

    @Test
    public void aTurnKeepsTheDrawingAndTheTraining() throws Exception {
        teach(20);
        draw(Handwriting.draw(3, 0.1f, 0, new Random(1)));
        float[] drawn = ((DrawingView) activity.findViewById(R.id.drawing)).drawing().pack();
        activity.findViewById(R.id.train).performClick(); // Not waiting for its end.
        RuntimeEnvironment.setQualifiers("+land");
        controller.configurationChange();
        assertFalse("it is another activity", controller.get() == activity);
        activity = controller.get();
        settle();
        assertArrayEquals(
                drawn, ((DrawingView) activity.findViewById(R.id.drawing)).drawing().pack(), 0f);
        assertTrue(text(R.id.answer), text(R.id.answer).matches("\\d"));
        assertTrue(percent(text(R.id.after)) > 0);
        assertEquals(20, application().learner().state().after().examples());
    }

    /** Holds the learner between two steps of a training that was just begun. */
    private CountDownLatch pause() throws Exception {
        CountDownLatch go = new CountDownLatch(1);
        CountDownLatch paused = new CountDownLatch(1);
        application().learner().worker.submit(() -> {
            paused.countDown();
            go.await();
            return null;
        });
        assertTrue(paused.await(60, TimeUnit.SECONDS));
        ShadowLooper.idleMainLooper();
        return go;
    }

    @Test
    public void stopsWhenTold() throws Exception {
        teach(40);
        activity.findViewById(R.id.train).performClick();
        CountDownLatch go = pause();
        assertEquals(activity.getString(R.string.stop), text(R.id.train));
        assertFalse("no other model while it trains", enabled(R.id.open_model));
        int steps = application().learner().state().steps();
        activity.findViewById(R.id.train).performClick();
        go.countDown();
        settle();
        assertEquals(activity.getString(R.string.train), text(R.id.train));
        assertTrue(application().learner().state().losses().length < steps);
    }

    @Test
    public void sharesAnUpdateThatAnotherAppCanRead() throws Exception {
        teach(10);
        tap(R.id.train);
        tap(R.id.share);
        Intent chooser = shadowOf(activity).getNextStartedActivity();
        assertEquals(Intent.ACTION_CHOOSER, chooser.getAction());
        Intent send = chooser.getParcelableExtra(Intent.EXTRA_INTENT, Intent.class);
        assertEquals(Intent.ACTION_SEND, send.getAction());
        assertTrue((send.getFlags() & Intent.FLAG_GRANT_READ_URI_PERMISSION) != 0);
        Uri uri = send.getParcelableExtra(Intent.EXTRA_STREAM, Uri.class);
        assertEquals(uri, send.getClipData().getItemAt(0).getUri());
        ModelMetadata model = application().learner().state().model();
        UpdateProvider provider = Robolectric.setupContentProvider(UpdateProvider.class);
        try (InputStream in = new ParcelFileDescriptor.AutoCloseInputStream(
                provider.openFile(uri, "r"))) {
            UpdateFile update = UpdateFile.read(SafeFile.read(in, 1 << 24), model);
            assertEquals(10, update.after().examples());
        }
        assertTrue(uri.getLastPathSegment().matches("update-[0-9a-f]{12}\\.safetensors"));
        for (String path : new String[] {"", "..", "../subnet.tflite", "none"}) {
            Uri other = uri.buildUpon().path(path).build();
            assertThrows(FileNotFoundException.class, () -> provider.openFile(other, "r"));
        }
        assertThrows(FileNotFoundException.class, () -> provider.openFile(uri, "rw"));
    }

    @Test
    public void savesAnUpdateWhereAPersonChooses() throws Exception {
        teach(10);
        tap(R.id.train);
        tap(R.id.save);
        Uri uri = Uri.parse("content://documents/update");
        ByteArrayOutputStream saved = new ByteArrayOutputStream();
        shadowOf(activity.getContentResolver()).registerOutputStream(uri, saved);
        answer(MainActivity.SAVE_UPDATE, uri);
        ModelMetadata model = application().learner().state().model();
        assertEquals(10, UpdateFile.read(saved.toByteArray(), model).after().examples());
    }

    @Test
    public void aWrongFileIsOneSentenceAndTheOldModelStays() throws Exception {
        String round = text(R.id.round);
        View scroll = activity.findViewById(R.id.scroll);
        scroll.scrollTo(0, 300);
        assertEquals(300, scroll.getScrollY());
        openModel("no model at all".getBytes());
        TextView problem = activity.findViewById(R.id.problem);
        assertEquals(View.VISIBLE, problem.getVisibility());
        assertEquals("This is no model of fedsup: expected a .tflite that fedsup export wrote.",
                text(R.id.problem));
        assertEquals("it is where it can be read", 0, scroll.getScrollY());
        assertEquals(round, text(R.id.round));
        draw(Handwriting.draw(2, 0.1f, 0, new Random(1)));
        assertEquals("2", text(R.id.answer));
        problem.performClick();
        settle();
        assertEquals(View.GONE, problem.getVisibility());
    }

    @Test
    public void anotherModelIsShownAndUsed() throws Exception {
        openModel(Golden.modelSaying(Golden.metadata().put("round", 4321)));
        assertEquals("4,321", text(R.id.round));
        assertEquals(activity.getString(R.string.model_picked), text(R.id.origin));
        restart();
        assertEquals("4,321", text(R.id.round));
    }

    @Test
    public void measuresThePhoneAndSharesItsTable() throws Exception {
        activity.findViewById(R.id.more).performLongClick();
        PopupMenu menu = ShadowPopupMenu.getLatestPopupMenu();
        shadowOf(menu).getOnMenuItemClickListener()
                .onMenuItemClick(menu.getMenu().findItem(R.id.measure));
        byte[] parts = Files.readAllBytes(new File(Golden.BUILD, "golden/parts.zip").toPath());
        Uri uri = Uri.parse("content://documents/parts");
        shadowOf(activity.getContentResolver())
                .registerInputStream(uri, new ByteArrayInputStream(parts));
        answer(MainActivity.MEASURE, uri);
        Intent chooser = null;
        while (chooser == null || !Intent.ACTION_CHOOSER.equals(chooser.getAction())) {
            settle();
            assertEquals("", text(R.id.problem));
            chooser = shadowOf(activity).getNextStartedActivity();
        }
        Uri shared = chooser.getParcelableExtra(Intent.EXTRA_INTENT, Intent.class)
                .getParcelableExtra(Intent.EXTRA_STREAM, Uri.class);
        assertEquals("latency.json", shared.getLastPathSegment());
        UpdateProvider provider = Robolectric.setupContentProvider(UpdateProvider.class);
        try (InputStream in = new ParcelFileDescriptor.AutoCloseInputStream(
                provider.openFile(shared, "r"))) {
            String text = new String(SafeFile.read(in, 1 << 24), StandardCharsets.UTF_8);
            assertEquals(7, new JSONObject(text).getJSONArray("rows").length());
        }
    }

    @Test
    public void trainsByNightWhenThePersonWants() throws Exception {
        teach(10);
        tap(R.id.while_charging);
        assertTrue(TrainingJobService.isScheduled(activity));
        TrainingJobService job = Robolectric.setupService(TrainingJobService.class);
        assertTrue(job.onStartJob(null));
        CountDownLatch go = pause();
        int steps = application().learner().state().steps();
        assertTrue("the rest is for the next time", job.onStopJob(null));
        go.countDown();
        settle();
        assertTrue(application().learner().state().losses().length < steps);
        application().learner().teach(LearnerCase.slanted(1).get(0));
        assertTrue(job.onStartJob(null));
        settle();
        assertEquals(11, application().learner().state().after().examples());
        assertTrue(percent(text(R.id.after)) > 0);
        tap(R.id.while_charging);
        assertFalse(TrainingJobService.isScheduled(activity));
    }
}
