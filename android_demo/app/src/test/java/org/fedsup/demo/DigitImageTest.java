package org.fedsup.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.Random;
import org.fedsup.trainer.Example;
import org.fedsup.trainer.Golden;
import org.fedsup.trainer.Trainer;
import org.junit.Test;

/** Tests that a drawing becomes an image like those that the model was trained on. */
public class DigitImageTest {
    private static int sum(byte[] image, int firstColumn, int columns) {
        int ink = 0;
        for (int place = 0; place < image.length; place++) {
            int column = place % DigitImage.SIDE;
            ink += column >= firstColumn && column < firstColumn + columns ? image[place] : 0;
        }
        return ink;
    }

    private static Drawing scaled(Drawing drawing, float scale, float dx, float dy) {
        Drawing moved = new Drawing();
        for (float[] stroke : drawing.strokes()) {
            moved.begin(stroke[0] * scale + dx, stroke[1] * scale + dy);
            for (int place = 2; place < stroke.length; place += 2) {
                moved.extend(stroke[place] * scale + dx, stroke[place + 1] * scale + dy);
            }
        }
        return moved;
    }

    @Test
    public void hasTheInkAndThePlaceOfTheTrainingData() {
        for (int digit = 0; digit < 10; digit++) {
            byte[] image = DigitImage.of(Handwriting.draw(digit, 0, 0, new Random(digit)));
            int ink = sum(image, 0, 8);
            assertTrue(digit + ": " + ink, ink >= 290 && ink <= 335);
            assertTrue("outside", sum(image, 0, 1) + sum(image, 7, 1) <= 16);
            int top = 0;
            int bottom = 0;
            for (int column = 0; column < 8; column++) {
                top += image[column];
                bottom += image[56 + column];
            }
            assertTrue("fills the height", top > 0 && bottom > 0);
            for (byte value : image) {
                assertTrue(value >= 0 && value <= 16);
            }
        }
    }

    @Test
    public void doesNotDependOnWhereAndHowLargeItWasDrawn() {
        Drawing drawing = Handwriting.draw(5, 0.1f, 0.01f, new Random(1));
        byte[] image = DigitImage.of(drawing);
        // Powers of two, which are exact.
        assertArrayEquals(image, DigitImage.of(scaled(drawing, 0.25f, 0, 0)));
        byte[] moved = DigitImage.of(scaled(drawing, 256f, 64f, -32f));
        int differing = 0;
        for (int place = 0; place < image.length; place++) {
            differing += Math.abs(image[place] - moved[place]);
        }
        assertTrue("differing pixels: " + differing, differing <= 4);
    }

    @Test
    public void takesDotsAndDashes() {
        Drawing dot = new Drawing();
        dot.begin(0.3f, 0.3f);
        assertTrue(sum(DigitImage.of(dot), 0, 8) > 0);
        Drawing dash = new Drawing();
        dash.begin(0.1f, 0.5f);
        dash.extend(0.9f, 0.5f);
        byte[] image = DigitImage.of(dash);
        int rowInk = sum(image, 0, 8);
        int outside = 0;
        for (int column = 0; column < 8; column++) {
            outside += image[column] + image[56 + column];
        }
        assertTrue(rowInk > 0);
        assertEquals("a dash is no block", 0, outside);
    }

    @Test
    public void freshModelReadsHandwriting() throws Exception {
        int right = 0;
        try (Trainer trainer = new Trainer(Golden.model(), 1)) {
            for (int digit = 0; digit < 10; digit++) {
                for (int time = 0; time < 5; time++) {
                    Example example = Handwriting.example(digit, 0.1f, 0.015f, new Random(10 * digit + time));
                    float[] answer = trainer.infer(example.image());
                    boolean best = true;
                    for (float other : answer) {
                        best &= answer[digit] >= other;
                    }
                    right += best ? 1 : 0;
                }
            }
        }
        assertTrue(right + " of 50", right >= 45);
    }

    @Test
    public void aDrawingSurvivesBeingPacked() {
        Drawing drawing = Handwriting.draw(4, 0, 0, new Random(0));
        Drawing copy = new Drawing();
        copy.begin(9, 9);
        copy.unpack(drawing.pack());
        assertEquals(drawing.strokes().size(), copy.strokes().size());
        for (int stroke = 0; stroke < drawing.strokes().size(); stroke++) {
            assertArrayEquals(drawing.strokes().get(stroke), copy.strokes().get(stroke), 0f);
        }
        copy.unpack(new Drawing().pack());
        assertTrue(copy.isEmpty());
    }
}
