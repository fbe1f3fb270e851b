package org.fedsup.demo;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.DashPathEffect;
import android.graphics.Paint;
import android.graphics.Path;
import android.util.AttributeSet;
import android.view.MotionEvent;
import android.view.View;

/** A square to draw a digit on. Its side is the unit, so that a drawing survives rotation. */
public final class DrawingView extends View {
    private static final float PEN = 0.065f;
    private static final float GUIDE = 0.12f;

    private final Drawing drawing = new Drawing();
    private final Paint pen = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Paint guide = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Paint hint = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final String hintText;
    private Runnable onDrawn = () -> {};

    public DrawingView(Context context, AttributeSet attributes) {
        super(context, attributes);
        pen.setColor(context.getColor(R.color.ink));
        pen.setStyle(Paint.Style.STROKE);
        pen.setStrokeCap(Paint.Cap.ROUND);
        pen.setStrokeJoin(Paint.Join.ROUND);
        guide.setColor(context.getColor(R.color.guide));
        guide.setStyle(Paint.Style.STROKE);
        float density = getResources().getDisplayMetrics().density;
        guide.setStrokeWidth(density);
        guide.setPathEffect(new DashPathEffect(new float[] {4 * density, 4 * density}, 0));
        hint.setColor(context.getColor(R.color.text_secondary));
        hint.setTextAlign(Paint.Align.CENTER);
        hint.setTextSize(getResources().getDimension(R.dimen.text_body));
        hintText = context.getString(R.string.draw_hint);
        setContentDescription(context.getString(R.string.draw_description));
    }

    /** Returns the current drawing. */
    Drawing drawing() {
        return drawing;
    }

    /** Sets a callback that runs after each change of the drawing by a stroke or by clearing. */
    void setOnDrawn(Runnable callback) {
        onDrawn = callback;
    }

    /** Clears the drawing. */
    void clear() {
        drawing.clear();
        invalidate();
        onDrawn.run();
    }

    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        super.onMeasure(widthSpec, widthSpec); // As high as wide.
    }

    @Override
    public boolean onTouchEvent(MotionEvent event) {
        float side = getWidth();
        switch (event.getActionMasked()) {
            case MotionEvent.ACTION_DOWN:
                getParent().requestDisallowInterceptTouchEvent(true); // Do not scroll.
                drawing.begin(event.getX() / side, event.getY() / side);
                break;
            case MotionEvent.ACTION_MOVE:
                for (int past = 0; past < event.getHistorySize(); past++) {
                    drawing.extend(event.getHistoricalX(past) / side, event.getHistoricalY(past) / side);
                }
                drawing.extend(event.getX() / side, event.getY() / side);
                break;
            case MotionEvent.ACTION_UP:
                performClick();
                onDrawn.run();
                break;
            case MotionEvent.ACTION_CANCEL:
                onDrawn.run();
                break;
            default:
                return false;
        }
        invalidate();
        return true;
    }

    @Override
    public boolean performClick() {
        return super.performClick();
    }

    @Override
    protected void onDraw(Canvas canvas) {
        float side = getWidth();
        float margin = GUIDE * side;
        canvas.drawLine(margin, margin, side - margin, margin, guide);
        canvas.drawLine(margin, side - margin, side - margin, side - margin, guide);
        if (drawing.isEmpty()) {
            canvas.drawText(hintText, side / 2, side / 2 + hint.getTextSize() / 3, hint);
            return;
        }
        pen.setStrokeWidth(PEN * side);
        for (float[] stroke : drawing.strokes()) {
            Path path = new Path();
            path.moveTo(stroke[0] * side, stroke[1] * side);
            path.lineTo(stroke[0] * side, stroke[1] * side); // A touch is a dot.
            for (int place = 2; place < stroke.length; place += 2) {
                path.lineTo(stroke[place] * side, stroke[place + 1] * side);
            }
            canvas.drawPath(path, pen);
        }
    }
}
