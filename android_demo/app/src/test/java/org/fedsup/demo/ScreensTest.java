package org.fedsup.demo;

import static org.junit.Assert.assertTrue;

import android.graphics.Bitmap;
import android.graphics.Canvas;
import android.text.Layout;
import android.view.View;
import android.view.ViewGroup;
import android.widget.ScrollView;
import android.widget.TextView;
import java.io.File;
import java.io.FileOutputStream;
import java.util.Random;
import org.fedsup.trainer.Golden;
import org.junit.After;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.RuntimeEnvironment;

/** Renders the app's screens to pictures, and finds views that do not fit. */
@RunWith(AppRunner.class)
public class ScreensTest extends ActivityCase {
    private static final int DRAWINGS = 30;

    private void open(String qualifiers) throws Exception {
        RuntimeEnvironment.setQualifiers(qualifiers);
        show(null);
        Learner learner = learner();
        LearnerCase.slanted(DRAWINGS).forEach(learner::teach);
        DrawingView canvas = activity.findViewById(R.id.drawing);
        canvas.drawing().unpack(Handwriting.draw(7, 0.25f, 0.01f, new Random(3)).pack());
        controller.pause().stop().start().resume(); // Classifies the drawing.
        settle();
    }

    @After
    public void close() {
        application().onTerminate();
    }

    private static Learner learner() {
        return application().learner();
    }

    private void train() throws Exception {
        learner().train(() -> {});
        settle();
    }

    private void picture(String name) throws Exception {
        View root = activity.getWindow().getDecorView();
        Bitmap bitmap = Bitmap.createBitmap(root.getWidth(), root.getHeight(), Bitmap.Config.ARGB_8888);
        root.draw(new Canvas(bitmap));
        File file = new File(Golden.BUILD, "screens/android_" + name + ".png");
        file.getParentFile().mkdirs();
        try (FileOutputStream out = new FileOutputStream(file)) {
            assertTrue(bitmap.compress(Bitmap.CompressFormat.PNG, 100, out));
        }
        assertTrue(name + ": " + file.length(), file.length() < 150_000);
        assertFits(root);
    }

    /** Checks that no text is cut off, and that what can be tapped is large enough for a finger. */
    private void assertFits(View view) {
        if (view instanceof ViewGroup) {
            for (int child = 0; child < ((ViewGroup) view).getChildCount(); child++) {
                View part = ((ViewGroup) view).getChildAt(child);
                if (part.getVisibility() != View.VISIBLE) {
                    continue;
                }
                assertFits(part);
                boolean inside = part.getTop() >= 0 && part.getBottom() <= view.getHeight()
                        && part.getRight() <= view.getWidth();
                assertTrue("outside: " + part, inside || view instanceof ScrollView);
            }
        }
        if (view instanceof TextView && view.isShown() && ((TextView) view).getLayout() != null) {
            Layout layout = ((TextView) view).getLayout();
            String text = ((TextView) view).getText().toString();
            int room = view.getWidth() - view.getPaddingLeft() - view.getPaddingRight();
            for (int line = 0; line < layout.getLineCount(); line++) {
                assertTrue("too wide: " + text, Math.ceil(layout.getLineWidth(line)) <= room + 1);
                assertTrue("cut off: " + text, layout.getEllipsisCount(line) == 0);
            }
            assertTrue("too high: " + text, layout.getHeight() <= view.getHeight() + 1);
        }
        if (view.isShown() && view.isClickable() && view.hasOnClickListeners()) {
            float density = activity.getResources().getDisplayMetrics().density;
            assertTrue("too small: " + view, Math.min(view.getWidth(), view.getHeight()) >= 44 * density);
        }
    }

    private void phone(String night) throws Exception {
        open("w360dp-h640dp-" + night + "-xhdpi");
        String mode = night.equals("night") ? "dark" : "light";
        picture("phone_draw_" + mode);
        learner().openModel(() -> new byte[9]);
        settle();
        picture("phone_problem_" + mode);
        train();
        ScrollView scroll = activity.findViewById(R.id.scroll);
        View chart = activity.findViewById(R.id.chart);
        scroll.scrollTo(0, ((View) chart.getParent()).getTop()); // The training card.
        picture("phone_train_" + mode);
    }

    private void tablet(String night) throws Exception {
        open("w800dp-h1280dp-" + night + "-mdpi");
        train();
        picture("tablet_" + (night.equals("night") ? "dark" : "light"));
    }

    @Test
    public void phoneByDay() throws Exception {
        phone("notnight");
    }

    @Test
    public void phoneByNight() throws Exception {
        phone("night");
    }

    @Test
    public void tabletByDay() throws Exception {
        tablet("notnight");
    }

    @Test
    public void tabletByNight() throws Exception {
        tablet("night");
    }
}
