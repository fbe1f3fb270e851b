package org.fedsup.demo;

import android.content.ContentProvider;
import android.content.ContentValues;
import android.content.Context;
import android.database.Cursor;
import android.database.MatrixCursor;
import android.net.Uri;
import android.os.ParcelFileDescriptor;
import android.provider.OpenableColumns;
import java.io.File;
import java.io.FileNotFoundException;

/** Lets the app that the user shares an update with read that one file. */
public final class UpdateProvider extends ContentProvider {
    static final String TYPE = "application/octet-stream";

    /** Returns the URI of an update file. */
    static Uri uri(Context context, File update) {
        return new Uri.Builder().scheme("content").authority(context.getPackageName() + ".updates")
                .appendPath(update.getName()).build();
    }

    @Override
    public boolean onCreate() {
        return true;
    }

    @Override
    public ParcelFileDescriptor openFile(Uri uri, String mode) throws FileNotFoundException {
        if (!"r".equals(mode)) {
            throw new FileNotFoundException("Expected mode r, received " + mode + ".");
        }
        return ParcelFileDescriptor.open(file(uri), ParcelFileDescriptor.MODE_READ_ONLY);
    }

    @Override
    public Cursor query(Uri uri, String[] columns, String where, String[] values, String order) {
        MatrixCursor cursor =
                new MatrixCursor(new String[] {OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE});
        try {
            File update = file(uri);
            cursor.addRow(new Object[] {update.getName(), update.length()});
        } catch (FileNotFoundException none) {
            return cursor;
        }
        return cursor;
    }

    @Override
    public String getType(Uri uri) {
        return TYPE;
    }

    @Override
    public Uri insert(Uri uri, ContentValues values) {
        throw new UnsupportedOperationException();
    }

    @Override
    public int update(Uri uri, ContentValues values, String where, String[] arguments) {
        throw new UnsupportedOperationException();
    }

    @Override
    public int delete(Uri uri, String where, String[] arguments) {
        throw new UnsupportedOperationException();
    }

    /** Returns the file of a URI; uses its last segment only, so that no path leads elsewhere. */
    private File file(Uri uri) throws FileNotFoundException {
        String name = uri.getLastPathSegment() == null ? "" : new File(uri.getLastPathSegment()).getName();
        File update = new File(new File(getContext().getFilesDir(), Pupil.UPDATES), name);
        if (name.isEmpty() || !update.isFile()) {
            throw new FileNotFoundException("There is no update " + name + ".");
        }
        return update;
    }
}
