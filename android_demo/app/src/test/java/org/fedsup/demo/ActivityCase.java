package org.fedsup.demo;

import android.content.Intent;
import org.robolectric.Robolectric;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.android.controller.ActivityController;
import org.robolectric.shadows.ShadowLooper;

/** Base class of tests of the app's activity, in a simulated Android with the real engine. */
public abstract class ActivityCase {
    ActivityController<MainActivity> controller;
    MainActivity activity;

    /** Shows the activity; a null intent starts it as the home screen does. */
    void show(Intent intent) throws Exception {
        controller = Robolectric.buildActivity(MainActivity.class, intent).setup();
        activity = controller.get();
        settle();
    }

    static DemoApplication application() {
        return (DemoApplication) RuntimeEnvironment.getApplication();
    }

    /** Waits until there is nothing more to do or to draw. */
    static void settle() throws Exception {
        ShadowLooper.idleMainLooper();
        LearnerCase.settle(application().learner());
        ShadowLooper.idleMainLooper();
    }
}
