package org.fedsup.demo;

import android.content.Intent;
import org.robolectric.Robolectric;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.android.controller.ActivityController;
import org.robolectric.shadows.ShadowLooper;

/** What tests of the app's activity share, in a simulated Android with the real engine. */
public abstract class ActivityCase {
    ActivityController<MainActivity> controller;
    MainActivity activity;

    /** Shows the activity; without an intent as from the home screen. */
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
