package org.fedsup.demo;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** The strokes of a finger, in any unit; independent of the screen. */
public final class Drawing {
    private final List<float[]> strokes = new ArrayList<>();

    /** Begins a stroke. */
    public void begin(float x, float y) {
        strokes.add(new float[] {x, y});
    }

    /** Continues the last stroke, or begins the first one. */
    public void extend(float x, float y) {
        if (strokes.isEmpty()) {
            begin(x, y);
            return;
        }
        float[] last = strokes.get(strokes.size() - 1);
        float[] longer = Arrays.copyOf(last, last.length + 2);
        longer[last.length] = x;
        longer[last.length + 1] = y;
        strokes.set(strokes.size() - 1, longer);
    }

    public void clear() {
        strokes.clear();
    }

    public boolean isEmpty() {
        return strokes.isEmpty();
    }

    /** Returns the strokes, each as x, y, x, y and so on. */
    public List<float[]> strokes() {
        return strokes;
    }

    /** Returns all strokes in one array for {@link #unpack}; NaN begins a stroke. */
    public float[] pack() {
        int length = 0;
        for (float[] stroke : strokes) {
            length += 1 + stroke.length;
        }
        float[] packed = new float[length];
        int place = 0;
        for (float[] stroke : strokes) {
            packed[place] = Float.NaN;
            System.arraycopy(stroke, 0, packed, place + 1, stroke.length);
            place += 1 + stroke.length;
        }
        return packed;
    }

    /** Replaces the strokes by those that {@link #pack} returned. */
    public void unpack(float[] packed) {
        strokes.clear();
        for (int end = packed.length, place = end - 1; place >= 0; place--) {
            if (Float.isNaN(packed[place])) {
                strokes.add(0, Arrays.copyOfRange(packed, place + 1, end));
                end = place;
            }
        }
    }
}
