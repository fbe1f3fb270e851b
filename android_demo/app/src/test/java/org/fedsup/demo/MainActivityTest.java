package org.fedsup.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import android.view.View;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.fedsup.trainer.Golden;
import org.fedsup.trainer.ModelMetadata;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.shadows.ShadowLooper;

/** Tests of the app as a person uses it, in a simulated Android with the real engine. */
@RunWith(AppRunner.class)
public class MainActivityTest extends PersonCase {
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
        activity.findViewById(R.id.train).performClick(); // Does not wait for the end.
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

    /** Pauses the learner between two steps of a training run that has just begun. */
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
