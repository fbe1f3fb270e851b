package org.fedsup.demo;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.graphics.Path;
import android.util.AttributeSet;
import android.view.View;
import java.util.Locale;

/** Chart of the loss of each training step, which grows from the left during training. */
public final class LossChart extends View {
    private static final float MIN_TOP = 0.1f;

    private final Paint line = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Paint area = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Paint grid = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Paint text = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final float density = getResources().getDisplayMetrics().density;
    private final String emptyText;
    private final String axisText;
    private float[] losses = new float[0];
    private int steps;

    public LossChart(Context context, AttributeSet attributes) {
        super(context, attributes);
        line.setColor(context.getColor(R.color.accent));
        line.setStyle(Paint.Style.STROKE);
        line.setStrokeWidth(2 * density);
        line.setStrokeJoin(Paint.Join.ROUND);
        area.setColor(context.getColor(R.color.accent));
        area.setAlpha(40);
        grid.setColor(context.getColor(R.color.guide));
        grid.setStrokeWidth(density);
        text.setColor(context.getColor(R.color.text_secondary));
        text.setTextSize(getResources().getDimension(R.dimen.text_axis));
        emptyText = context.getString(R.string.chart_empty);
        axisText = context.getString(R.string.chart_axis);
    }

    /** Shows the losses so far of a training run of {@code allSteps} steps. */
    void show(float[] shownLosses, int allSteps) {
        losses = shownLosses;
        steps = allSteps;
        setContentDescription(losses.length == 0 ? emptyText : getContext().getString(
                R.string.chart_description, losses.length, losses[losses.length - 1]));
        invalidate();
    }

    @Override
    protected void onDraw(Canvas canvas) {
        float left = text.measureText("0.00") + 8 * density;
        float right = getWidth() - 4 * density;
        float top = text.getTextSize();
        float bottom = getHeight() - 1.6f * text.getTextSize();
        float most = MIN_TOP;
        for (float loss : losses) {
            most = Math.max(most, loss);
        }
        for (int part = 0; part <= 2; part++) {
            float y = top + (bottom - top) * part / 2;
            canvas.drawLine(left, y, right, y, grid);
            if (losses.length > 0) {
                text.setTextAlign(Paint.Align.RIGHT);
                String value = String.format(Locale.getDefault(), "%.2f", most * (2 - part) / 2);
                canvas.drawText(value, left - 6 * density, y + text.getTextSize() / 3, text);
            }
        }
        text.setTextAlign(Paint.Align.CENTER);
        if (losses.length == 0) {
            canvas.drawText(emptyText, (left + right) / 2, (top + bottom) / 2 - 4 * density, text);
            return;
        }
        float baseline = getHeight() - 0.3f * text.getTextSize();
        canvas.drawText(axisText, (left + right) / 2, baseline, text);
        text.setTextAlign(Paint.Align.RIGHT);
        canvas.drawText(String.valueOf(steps), right, baseline, text);
        text.setTextAlign(Paint.Align.LEFT);
        canvas.drawText("1", left, baseline, text);
        Path path = new Path();
        float x = left;
        float y = bottom;
        for (int step = 0; step < losses.length; step++) {
            x = left + (right - left) * step / Math.max(1, steps - 1);
            y = bottom - (bottom - top) * losses[step] / most;
            if (step == 0) {
                path.moveTo(x, y);
            } else {
                path.lineTo(x, y);
            }
        }
        Path under = new Path(path);
        under.lineTo(x, bottom);
        under.lineTo(left, bottom);
        under.close();
        canvas.drawPath(under, area);
        canvas.drawPath(path, line);
        area.setAlpha(255);
        canvas.drawCircle(x, y, 3.5f * density, area);
        area.setAlpha(40);
    }
}
