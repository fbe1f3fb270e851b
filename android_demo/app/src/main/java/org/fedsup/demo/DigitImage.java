package org.fedsup.demo;

import java.util.List;

/**
 * Reduces a drawing to an 8x8 image, in the same way as the training data of the digits subnet.
 *
 * <p>That data is NIST's forms as reduced by E. Alpaydin and C. Kaynak (Optical Recognition of
 * Handwritten Digits): a digit is a 32x32 bitmap, and each value of the image counts the black
 * pixels in one of its 4x4 blocks, 0 to 16. The bitmap was made by NIST's normalization: each of
 * the 1,797 digits of scikit-learn is centred, fills the full height and about 20 of the 32
 * columns, and its strokes are so thick that about 312 pixels are black (303 to 330 by class). This
 * class does the same.
 */
public final class DigitImage {
    /** Height and width of the image. */
    public static final int SIDE = 8;

    private static final int BLOCK = 4;
    private static final int BITMAP = SIDE * BLOCK;
    private static final float WIDTH = 22f;
    private static final int INK = 312;
    private static final float THINNEST = 1.5f;
    private static final float THICKEST = 11f;
    // Drawings with a smaller height than this share of their width stay flat, such as a dash.
    private static final float FLATTEST = 0.4f;

    private DigitImage() {}

    /** Returns the image of a nonempty drawing: 64 values from 0 to 16, row by row. */
    public static byte[] of(Drawing drawing) {
        float thin = THINNEST;
        float thick = THICKEST;
        for (int halving = 0; halving < 10; halving++) {
            float middle = (thin + thick) / 2;
            if (ink(bitmap(drawing.strokes(), middle)) < INK) {
                thin = middle;
            } else {
                thick = middle;
            }
        }
        return countBlocks(bitmap(drawing.strokes(), thick));
    }

    private static byte[] countBlocks(boolean[] bitmap) {
        byte[] image = new byte[SIDE * SIDE];
        for (int pixel = 0; pixel < bitmap.length; pixel++) {
            if (bitmap[pixel]) {
                image[pixel / BITMAP / BLOCK * SIDE + pixel % BITMAP / BLOCK]++;
            }
        }
        return image;
    }

    private static int ink(boolean[] bitmap) {
        int black = 0;
        for (boolean pixel : bitmap) {
            black += pixel ? 1 : 0;
        }
        return black;
    }

    /** Draws the strokes with a round pen, scaled and centred in the bitmap. */
    private static boolean[] bitmap(List<float[]> strokes, float thickness) {
        float left = Float.MAX_VALUE;
        float right = -Float.MAX_VALUE;
        float top = Float.MAX_VALUE;
        float bottom = -Float.MAX_VALUE;
        for (float[] stroke : strokes) {
            for (int place = 0; place < stroke.length; place += 2) {
                left = Math.min(left, stroke[place]);
                right = Math.max(right, stroke[place]);
                top = Math.min(top, stroke[place + 1]);
                bottom = Math.max(bottom, stroke[place + 1]);
            }
        }
        float tall = Math.max(bottom - top, Math.max(FLATTEST * (right - left), 1e-6f));
        float scaleY = (BITMAP - thickness) / tall;
        float scaleX = Math.min(scaleY, Math.max(0, WIDTH - thickness) / Math.max(right - left, 1e-6f));
        float shiftX = BITMAP / 2f - scaleX * (left + right) / 2;
        float shiftY = BITMAP / 2f - scaleY * (top + bottom) / 2;
        boolean[] bitmap = new boolean[BITMAP * BITMAP];
        for (float[] stroke : strokes) {
            for (int place = 0; place < stroke.length; place += 2) {
                int before = Math.max(0, place - 2);
                drawLine(bitmap, thickness / 2,
                        scaleX * stroke[before] + shiftX, scaleY * stroke[before + 1] + shiftY,
                        scaleX * stroke[place] + shiftX, scaleY * stroke[place + 1] + shiftY);
            }
        }
        return bitmap;
    }

    private static void drawLine(
            boolean[] bitmap, float radius, float x0, float y0, float x1, float y1) {
        int firstRow = Math.max(0, (int) Math.floor(Math.min(y0, y1) - radius));
        int lastRow = Math.min(BITMAP - 1, (int) Math.ceil(Math.max(y0, y1) + radius));
        int firstColumn = Math.max(0, (int) Math.floor(Math.min(x0, x1) - radius));
        int lastColumn = Math.min(BITMAP - 1, (int) Math.ceil(Math.max(x0, x1) + radius));
        float dx = x1 - x0;
        float dy = y1 - y0;
        float squared = dx * dx + dy * dy;
        for (int row = firstRow; row <= lastRow; row++) {
            for (int column = firstColumn; column <= lastColumn; column++) {
                float px = column + 0.5f - x0;
                float py = row + 0.5f - y0;
                float along = squared == 0 ? 0 : Math.max(0, Math.min(1, (px * dx + py * dy) / squared));
                float ex = px - along * dx;
                float ey = py - along * dy;
                if (ex * ex + ey * ey <= radius * radius) {
                    bitmap[row * BITMAP + column] = true;
                }
            }
        }
    }
}
