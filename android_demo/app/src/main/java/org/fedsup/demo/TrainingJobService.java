package org.fedsup.demo;

import android.app.job.JobInfo;
import android.app.job.JobParameters;
import android.app.job.JobScheduler;
import android.app.job.JobService;
import android.content.ComponentName;
import android.content.Context;
import java.util.concurrent.TimeUnit;

/**
 * Trains on new drawings while the phone is charging and idle, as is usual in federated learning.
 * The system starts the job, and stops it when somebody uses the phone.
 */
public final class TrainingJobService extends JobService {
    static final int JOB = 1;
    private static final long DAY_MS = TimeUnit.DAYS.toMillis(1);

    /** Returns whether the job is scheduled. */
    static boolean isScheduled(Context context) {
        return context.getSystemService(JobScheduler.class).getPendingJob(JOB) != null;
    }

    /** Schedules or cancels daily training. The schedule is lost when the phone restarts. */
    static void setScheduled(Context context, boolean wanted) {
        JobScheduler scheduler = context.getSystemService(JobScheduler.class);
        if (!wanted) {
            scheduler.cancel(JOB);
            return;
        }
        ComponentName service = new ComponentName(context, TrainingJobService.class);
        scheduler.schedule(new JobInfo.Builder(JOB, service)
                .setRequiresCharging(true)
                .setRequiresDeviceIdle(true)
                .setPeriodic(DAY_MS)
                .build());
    }

    @Override
    public boolean onStartJob(JobParameters parameters) {
        learner().trainOnNew(() -> jobFinished(parameters, false));
        return true;
    }

    /** Stops training; what was learned so far is kept, and the next job does the rest. */
    @Override
    public boolean onStopJob(JobParameters parameters) {
        learner().cancel();
        return true;
    }

    private Learner learner() {
        return ((DemoApplication) getApplication()).learner();
    }
}
