package org.fedsup.demo;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.util.AttributeSet;
import android.view.View;
import java.util.Collections;
import java.util.List;

/** Bar chart of the probability of each class, with the most likely one in colour. */
public final class ConfidenceBars extends View {
    private final Paint bar = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Paint text = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final int strong;
    private final int weak;
    private List<String> names = Collections.emptyList();
    private float[] probabilities = new float[0];

    public ConfidenceBars(Context context, AttributeSet attributes) {
        super(context, attributes);
        strong = context.getColor(R.color.accent);
        weak = context.getColor(R.color.bar);
        text.setColor(context.getColor(R.color.text_secondary));
        text.setTextAlign(Paint.Align.CENTER);
        text.setTextSize(getResources().getDimension(R.dimen.text_axis));
        setImportantForAccessibility(IMPORTANT_FOR_ACCESSIBILITY_NO); // The answer is next to it.
    }

    /** Shows the probabilities of an answer; null if there is no answer yet. */
    void show(List<String> classNames, float[] shown) {
        names = classNames;
        probabilities = shown == null ? new float[classNames.size()] : shown;
        invalidate();
    }

    @Override
    protected void onDraw(Canvas canvas) {
        int best = 0;
        for (int label = 0; label < probabilities.length; label++) {
            best = probabilities[label] > probabilities[best] ? label : best;
        }
        float cell = (float) getWidth() / Math.max(1, probabilities.length);
        float floor = getHeight() - 1.5f * text.getTextSize();
        float density = getResources().getDisplayMetrics().density;
        for (int label = 0; label < probabilities.length; label++) {
            float height = Math.max(2 * density, floor * probabilities[label]);
            float middle = cell * (label + 0.5f);
            bar.setColor(label == best && probabilities[label] > 0 ? strong : weak);
            canvas.drawRoundRect(middle - 0.3f * cell, floor - height, middle + 0.3f * cell, floor,
                    2 * density, 2 * density, bar);
            canvas.drawText(names.get(label), middle, getHeight() - 0.3f * text.getTextSize(), text);
        }
    }
}
