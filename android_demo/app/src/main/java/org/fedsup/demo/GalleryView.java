package org.fedsup.demo;

import android.content.Context;
import android.graphics.Bitmap;
import android.graphics.Canvas;
import android.graphics.Color;
import android.graphics.Paint;
import android.graphics.RectF;
import android.util.AttributeSet;
import android.view.View;
import java.util.List;
import org.fedsup.trainer.Example;
import org.fedsup.trainer.ModelMetadata;

/** The newest drawings as the model sees them, with their labels; as many as fit. */
public final class GalleryView extends View {
    private static final int IN_A_ROW = 10;
    private static final int INK_LEVELS = 16;

    private final Paint pixels = new Paint();
    private final Paint paper = new Paint();
    private final Paint text = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final RectF place = new RectF();
    private final int ink;
    private List<Example> drawings = List.of();
    private ModelMetadata model;

    public GalleryView(Context context, AttributeSet attributes) {
        super(context, attributes);
        ink = context.getColor(R.color.ink);
        pixels.setFilterBitmap(false);
        paper.setColor(context.getColor(R.color.paper));
        text.setColor(context.getColor(R.color.text_secondary));
        text.setTextAlign(Paint.Align.CENTER);
        text.setTextSize(getResources().getDimension(R.dimen.text_axis));
        setContentDescription(context.getString(R.string.gallery_description));
    }

    /** Returns an image of the model as a bitmap. */
    static Bitmap bitmap(byte[] image, int ink) {
        int[] colors = new int[image.length];
        for (int pixel = 0; pixel < image.length; pixel++) {
            int alpha = 255 * image[pixel] / INK_LEVELS;
            colors[pixel] = Color.argb(alpha, Color.red(ink), Color.green(ink), Color.blue(ink));
        }
        return Bitmap.createBitmap(colors, DigitImage.SIDE, DigitImage.SIDE, Bitmap.Config.ARGB_8888);
    }

    /** Shows the newest of these drawings with the class names of a model. */
    void show(List<Example> shown, ModelMetadata shownModel) {
        drawings = shown;
        model = shownModel;
        invalidate();
    }

    @Override
    protected void onDraw(Canvas canvas) {
        float cell = (float) getWidth() / IN_A_ROW;
        float side = 0.72f * cell;
        float height = side + 1.6f * text.getTextSize();
        int rows = Math.max(1, (int) (getHeight() / height));
        int first = Math.max(0, drawings.size() - IN_A_ROW * rows);
        for (int number = first; number < drawings.size(); number++) {
            Example drawing = drawings.get(number);
            float left = cell * ((number - first) % IN_A_ROW) + (cell - side) / 2;
            float top = height * ((number - first) / IN_A_ROW);
            place.set(left, top, left + side, top + side);
            canvas.drawRect(place, paper);
            canvas.drawBitmap(bitmap(drawing.image(), ink), null, place, pixels);
            canvas.drawText(model.classNames.get(drawing.label()), left + side / 2,
                    top + side + text.getTextSize(), text);
        }
    }
}
