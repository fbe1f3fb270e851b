package org.fedsup.demo;

import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.app.Activity;
import android.content.Intent;
import android.net.Uri;
import android.os.SystemClock;
import android.view.MotionEvent;
import android.view.View;
import android.view.ViewGroup;
import android.widget.TextView;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import org.junit.After;
import org.junit.Before;

/** Base class of tests that use the app's activity as a person does. */
public abstract class PersonCase extends ActivityCase {
    @Before
    public void open() throws Exception {
        show(null);
    }

    @After
    public void close() {
        controller.pause().stop().destroy();
        application().onTerminate();
    }

    String text(int view) {
        return ((TextView) activity.findViewById(view)).getText().toString();
    }

    boolean enabled(int view) {
        return activity.findViewById(view).isEnabled();
    }

    void tap(int view) throws Exception {
        assertTrue(enabled(view));
        activity.findViewById(view).performClick();
        settle();
    }

    /** Draws with a finger. */
    void draw(Drawing drawing) throws Exception {
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

    View label(int digit) {
        ViewGroup rows = activity.findViewById(R.id.labels);
        return ((ViewGroup) rows.getChildAt(digit / 5)).getChildAt(digit % 5);
    }

    void teach(int count) throws Exception {
        Random random = new Random(4);
        for (int number = 0; number < count; number++) {
            draw(Handwriting.draw(number % 10, 0.75f, 0.02f, random));
            assertTrue(label(number % 10).isEnabled());
            label(number % 10).performClick();
        }
        settle();
    }

    /** Opens another activity on the same files, as if the process had died. */
    void restart() throws Exception {
        controller.pause().stop().destroy();
        Learner learner = application().learner();
        application().onTerminate();
        assertTrue(learner.worker.awaitTermination(60, TimeUnit.SECONDS));
        open();
    }

    void answer(int request, Uri uri) throws Exception {
        Intent asked = shadowOf(activity).getNextStartedActivityForResult().intent;
        shadowOf(activity).receiveResult(asked, Activity.RESULT_OK, new Intent().setData(uri));
        settle();
    }
}
