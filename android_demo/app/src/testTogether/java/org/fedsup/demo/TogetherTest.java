package org.fedsup.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertTrue;

import android.app.job.JobInfo;
import android.app.job.JobScheduler;
import android.content.Intent;
import android.content.pm.PackageInfo;
import android.content.pm.PackageManager;
import android.net.NetworkCapabilities;
import android.net.Uri;
import android.view.View;
import android.widget.Switch;
import android.widget.TextView;
import java.util.Arrays;
import java.util.HashSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.fedsup.trainer.FakeGateway;
import org.fedsup.trainer.ModelMetadata;
import org.fedsup.trainer.UpdateFile;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;

/** Tests of learning together with other phones, in a simulated Android with the real engine. */
@RunWith(AppRunner.class)
public class TogetherTest extends ActivityCase {
    private FakeGateway gateway;

    @Before
    public void open() throws Exception {
        gateway = new FakeGateway(null);
        show(new Intent());
    }

    @After
    public void close() {
        controller.pause().stop().destroy();
        application().onTerminate();
        gateway.close();
    }

    private TextView text(int view) {
        return activity.findViewById(view);
    }

    private boolean isOn() {
        return ((Switch) activity.findViewById(R.id.together)).isChecked();
    }

    private void flip() throws Exception {
        activity.findViewById(R.id.together).performClick();
        settle();
    }

    private void enter(String server, String token) {
        text(R.id.together_server).setText(server);
        text(R.id.together_token).setText(token);
    }

    private JobInfo job() {
        return activity.getSystemService(JobScheduler.class).getPendingJob(TogetherJobService.JOB);
    }

    /** Runs the job as the system does at night; returns the outcome that the card then shows. */
    private String night() throws Exception {
        TogetherJobService service = Robolectric.setupService(TogetherJobService.class);
        assertTrue(service.onStartJob(null));
        service.worker.join(60_000);
        settle();
        return text(R.id.together_outcome).getText().toString();
    }

    private String problem() {
        return text(R.id.problem).getText().toString();
    }

    @Test
    public void isOffUntilAPersonSwitchesItOnAndSaysWhatLeaves() throws Exception {
        assertFalse(isOn());
        assertFalse(TogetherJobService.isScheduled(activity));
        View card = (View) activity.findViewById(R.id.together).getParent();
        assertEquals(View.VISIBLE, card.getVisibility());
        String leaves = activity.getString(R.string.together_leaves);
        for (String thing : Arrays.asList("change of its weights", "drawings stay here", "unmetered")) {
            assertTrue(leaves, leaves.contains(thing));
        }
        assertTrue(gateway.requests.isEmpty());
    }

    @Test
    public void withoutAServerItStaysOff() throws Exception {
        flip();
        assertFalse(isOn());
        assertTrue(problem(), problem().startsWith("The server: expected an address such as https://"));
        enter("http://example.org", "token");
        flip();
        assertFalse(isOn());
        assertTrue(problem(), problem().endsWith("The device's key would travel in the clear."));
        assertFalse(TogetherJobService.isScheduled(activity));
    }

    @Test
    public void asksForChargingIdleAndAnUnmeteredNetwork() throws Exception {
        enter(gateway.url(), FakeGateway.TOKEN);
        flip();
        assertTrue(isOn());
        assertTrue(job().isRequireCharging());
        assertTrue(job().isRequireDeviceIdle());
        assertTrue(job().getRequiredNetwork()
                .hasCapability(NetworkCapabilities.NET_CAPABILITY_NOT_METERED));
        assertFalse("nothing is changed while it is on", text(R.id.together_server).isEnabled());
        flip();
        assertFalse(TogetherJobService.isScheduled(activity));
        assertTrue(gateway.requests.isEmpty());
    }

    @Test
    public void sendsWhatItLearnedFromTheDrawingsAndTellsOfIt() throws Exception {
        enter(gateway.url(), FakeGateway.TOKEN);
        flip();
        assertEquals(activity.getString(R.string.together_needs), night());
        LearnerCase.slanted(30).forEach(application().learner()::teach);
        settle();
        String outcome = night();
        assertTrue(outcome, outcome.matches(
                "Round 7: it learned from 30 drawings\\. As it came it read \\d+% right, then \\d+%\\."));
        byte[] sent = gateway.updates.values().iterator().next();
        UpdateFile update = UpdateFile.read(sent, ModelMetadata.read(gateway.model));
        assertEquals(30, update.after().examples());
        assertTrue(gateway.checkIn, gateway.checkIn.contains("org.fedsup.demo 0.1"));
        assertEquals("it comes back when the server says", 40_000, job().getMinLatencyMillis());
        assertEquals(activity.getString(R.string.together_waits), night());
        assertEquals(1, gateway.updates.size());
    }

    @Test
    public void aServerOfAnotherVersionIsOneSentence() throws Exception {
        gateway.protocol = 2;
        enter(gateway.url(), FakeGateway.TOKEN);
        flip();
        String outcome = night();
        assertTrue(outcome, outcome.contains("expected a server of protocol version 1, received 2"));
    }

    @Test
    public void whatIsSwitchedOffIsNotSent() throws Exception {
        LearnerCase.slanted(30).forEach(application().learner()::teach);
        settle();
        enter(gateway.url(), FakeGateway.TOKEN);
        flip();
        CountDownLatch fetching = new CountDownLatch(1);
        CountDownLatch switchedOff = new CountDownLatch(1);
        gateway.fault("model", exchange -> {
            fetching.countDown();
            try {
                return switchedOff.await(60, TimeUnit.SECONDS);
            } catch (InterruptedException ended) {
                return false;
            }
        });
        TogetherJobService service = Robolectric.setupService(TogetherJobService.class);
        service.onStartJob(null);
        assertTrue(fetching.await(60, TimeUnit.SECONDS));
        flip();
        switchedOff.countDown();
        service.worker.join(60_000);
        settle();
        assertEquals(activity.getString(R.string.together_stopped),
                text(R.id.together_outcome).getText().toString());
        assertFalse(gateway.requests.contains("update"));
        assertFalse(TogetherJobService.isScheduled(activity));
    }

    @Test
    public void aScannedLinkWaitsForThePerson() throws Exception {
        enter(gateway.url(), FakeGateway.TOKEN);
        flip();
        controller.pause().stop().destroy();
        String link = "fedsup://enrol?server=https%3A%2F%2Fother.org&token=t";
        show(new Intent(Intent.ACTION_VIEW, Uri.parse(link)));
        assertEquals(link, text(R.id.together_server).getText().toString());
        assertFalse("the old server is left, the new one not followed", isOn());
        assertFalse(TogetherJobService.isScheduled(activity));
        flip();
        assertTrue(isOn());
        assertEquals(link, new Together(application()).server());
    }

    @Test
    public void asksForTheNetworkAlone() throws Exception {
        PackageInfo app = activity.getPackageManager()
                .getPackageInfo(activity.getPackageName(), PackageManager.GET_PERMISSIONS);
        assertNotNull(app.requestedPermissions);
        assertEquals(new HashSet<>(Arrays.asList("android.permission.INTERNET",
                "android.permission.ACCESS_NETWORK_STATE")),
                new HashSet<>(Arrays.asList(app.requestedPermissions)));
    }
}
