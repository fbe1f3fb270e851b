package org.fedsup.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.content.Intent;
import android.net.Uri;
import android.os.ParcelFileDescriptor;
import android.view.View;
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
import org.fedsup.trainer.Golden;
import org.fedsup.trainer.ModelMetadata;
import org.fedsup.trainer.SafeFile;
import org.fedsup.trainer.UpdateFile;
import org.json.JSONObject;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.shadows.ShadowContentResolver;
import org.robolectric.shadows.ShadowPopupMenu;

/** Tests of sharing, saving and opening files, as a user does it. */
@RunWith(AppRunner.class)
public class MainActivityFilesTest extends PersonCase {
    private void openModel(byte[] file) throws Exception {
        Uri uri = Uri.parse("content://documents/" + file.length);
        ShadowContentResolver resolver = shadowOf(activity.getContentResolver());
        resolver.registerInputStream(uri, new ByteArrayInputStream(file));
        tap(R.id.open_model);
        answer(MainActivity.OPEN_MODEL, uri);
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
        assertEquals("This is not a model that fedsup export wrote: choose a .tflite of it.",
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
}
