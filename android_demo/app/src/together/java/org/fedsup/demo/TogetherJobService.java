package org.fedsup.demo;

import android.app.job.JobInfo;
import android.app.job.JobParameters;
import android.app.job.JobScheduler;
import android.app.job.JobService;
import android.content.ComponentName;
import android.content.Context;
import android.os.Handler;
import android.os.Looper;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * Takes part in a server's rounds while the phone is charging, idle and on an unmetered network. The
 * server sets the time of the next visit; the system starts the job any time after it, and stops it
 * when somebody uses the phone.
 */
public final class TogetherJobService extends JobService {
    static final int JOB = 2;

    private final Handler main = new Handler(Looper.getMainLooper());
    /** Whether the current visit was stopped. */
    private AtomicBoolean stopped;
    /** Thread of the current visit; tests wait for it. */
    Thread worker;

    /** Returns whether the job is scheduled. */
    static boolean isScheduled(Context context) {
        return context.getSystemService(JobScheduler.class).getPendingJob(JOB) != null;
    }

    /** Schedules a visit. A restart of the phone cancels it until the app is opened. */
    static void schedule(Context context, int waitSeconds) {
        ComponentName service = new ComponentName(context, TogetherJobService.class);
        context.getSystemService(JobScheduler.class).schedule(new JobInfo.Builder(JOB, service)
                .setRequiresCharging(true)
                .setRequiresDeviceIdle(true)
                .setRequiredNetworkType(JobInfo.NETWORK_TYPE_UNMETERED)
                .setMinimumLatency(TimeUnit.SECONDS.toMillis(waitSeconds))
                .build());
    }

    /** Cancels the scheduled visit. */
    static void cancel(Context context) {
        context.getSystemService(JobScheduler.class).cancel(JOB);
    }

    @Override
    public boolean onStartJob(JobParameters parameters) {
        Together together = new Together(this);
        AtomicBoolean stop = new AtomicBoolean();
        stopped = stop;
        worker = new Thread(() -> {
            int waitSeconds = together.takePart(stop::get);
            main.post(() -> {
                // A visit that was stopped may end after the system has started the job again.
                if (!stop.get()) {
                    finish(together, parameters, waitSeconds);
                }
            });
        }, "together");
        worker.start();
        return true;
    }

    /** Stops the visit. Downloads and finished updates are kept; training starts over next time. */
    @Override
    public boolean onStopJob(JobParameters parameters) {
        stopped.set(true);
        worker.interrupt(); // It may be waiting for a server that is busy.
        return true;
    }

    private void finish(Together together, JobParameters parameters, int waitSeconds) {
        jobFinished(parameters, false);
        if (together.isOn()) {
            schedule(this, waitSeconds);
        }
    }
}
