package org.fedsup.demo;

import java.util.Random;
import org.fedsup.trainer.Example;

/** Digits as a person would draw them, for tests and pictures: curves through a few points. */
final class Handwriting {
    private static final int PARTS = 8;

    /** Strokes of each digit by points x, y of a unit square; those that begin with 0 are straight. */
    private static final float[][][] STROKES = {
        {{1, .52f, .1f, .28f, .22f, .2f, .5f, .28f, .8f, .5f, .9f, .72f, .78f, .8f, .5f, .72f, .22f, .52f, .1f}},
        {{0, .38f, .3f, .55f, .1f, .53f, .9f}},
        {{1, .26f, .3f, .36f, .14f, .56f, .1f, .7f, .22f, .68f, .4f, .5f, .62f, .24f, .88f},
            {0, .24f, .88f, .78f, .88f}},
        {{1, .26f, .16f, .48f, .1f, .68f, .18f, .66f, .36f, .45f, .47f}, {1, .45f, .47f, .68f, .54f,
            .74f, .72f, .6f, .88f, .4f, .9f, .24f, .8f}},
        {{0, .52f, .1f, .24f, .6f, .78f, .6f}, {0, .6f, .38f, .56f, .92f}},
        {{0, .74f, .12f, .36f, .12f, .3f, .44f}, {1, .3f, .44f, .5f, .38f, .7f, .5f, .72f, .72f, .55f,
            .88f, .36f, .9f, .24f, .82f}},
        {{1, .62f, .1f, .42f, .26f, .29f, .5f, .28f, .72f, .4f, .88f, .58f, .88f, .7f, .74f, .62f, .58f,
            .46f, .56f, .3f, .68f}},
        {{0, .22f, .12f, .76f, .12f, .46f, .9f}, {0, .36f, .5f, .72f, .5f}},
        {{1, .68f, .22f, .5f, .1f, .32f, .2f, .36f, .38f, .58f, .52f, .7f, .7f, .58f, .88f, .4f, .88f,
            .3f, .72f, .42f, .52f, .64f, .38f, .68f, .22f}},
        {{1, .68f, .26f, .54f, .12f, .36f, .16f, .3f, .36f, .46f, .48f, .64f, .4f, .68f, .26f},
            {1, .68f, .26f, .68f, .58f, .58f, .9f}},
    };

    private Handwriting() {}

    /**
     * Draws a digit.
     *
     * @param slant the slant to the right: 0 for upright, 1 for 45 degrees
     * @param shake the size of the points' random displacement
     */
    static Drawing draw(int digit, float slant, float shake, Random random) {
        Drawing drawing = new Drawing();
        for (float[] stroke : STROKES[digit]) {
            boolean curved = stroke[0] == 1;
            int points = stroke.length / 2;
            float[] x = new float[points];
            float[] y = new float[points];
            for (int point = 0; point < points; point++) {
                y[point] = stroke[2 + 2 * point] + shake * (float) random.nextGaussian();
                x[point] = stroke[1 + 2 * point] + shake * (float) random.nextGaussian()
                        + slant * (0.5f - y[point]);
            }
            drawing.begin(x[0], y[0]);
            for (int point = 1; point < points; point++) {
                for (int part = 1; part <= PARTS; part++) {
                    float along = (float) part / PARTS;
                    drawing.extend(between(x, point, along, curved), between(y, point, along, curved));
                }
            }
        }
        return drawing;
    }

    static Example example(int digit, float slant, float shake, Random random) {
        return new Example(DigitImage.of(draw(digit, slant, shake, random)), digit);
    }

    /** Interpolates by a Catmull-Rom curve, or by a line. */
    private static float between(float[] values, int point, float along, boolean curved) {
        float from = values[point - 1];
        float to = values[point];
        if (!curved) {
            return from + along * (to - from);
        }
        float before = values[Math.max(0, point - 2)];
        float after = values[Math.min(values.length - 1, point + 1)];
        float square = along * along;
        float cube = square * along;
        return 0.5f * (2 * from + (to - before) * along
                + (2 * before - 5 * from + 4 * to - after) * square
                + (3 * from - before - 3 * to + after) * cube);
    }
}
