package org.fedsup.demo;

import android.app.Activity;
import android.content.res.Resources;
import android.graphics.Bitmap;
import android.graphics.drawable.BitmapDrawable;
import android.view.View;
import android.view.ViewGroup;
import android.widget.Button;
import android.widget.ImageView;
import android.widget.LinearLayout;
import android.widget.TextView;
import java.text.NumberFormat;
import java.util.List;
import java.util.function.IntConsumer;
import org.fedsup.trainer.ModelMetadata;
import org.fedsup.trainer.Score;

/** Shows the state of a {@link Learner} in the views of an activity. */
final class Screen {
    private static final int LABELS_IN_A_ROW = 5;

    private final Activity activity;
    private final Resources resources;
    private final IntConsumer onLabel;
    private List<String> labels;

    /** Uses the views of an activity whose layout is set; a tap on a label reports its index. */
    Screen(Activity activity, IntConsumer onLabel) {
        this.activity = activity;
        this.onLabel = onLabel;
        resources = activity.getResources();
    }

    /** Shows a complete state. */
    void show(LearnerState state, boolean hasDrawing) {
        boolean ready = state.model() != null;
        boolean idle = ready && !state.training();
        boolean trained = state.after() != null;
        TextView problem = activity.findViewById(R.id.problem);
        if (state.problem() != null && !state.problem().contentEquals(problem.getText())) {
            activity.findViewById(R.id.scroll).scrollTo(0, 0); // To where the problem is shown.
        }
        problem.setText(state.problem());
        problem.setVisibility(state.problem() == null ? View.GONE : View.VISIBLE);
        if (ready) {
            showModel(state);
            showLabels(state.model().classNames, hasDrawing);
            showAnswer(state);
        }
        showTraining(state, trained);
        activity.findViewById(R.id.clear).setEnabled(hasDrawing);
        activity.findViewById(R.id.undo).setEnabled(ready && state.drawings().size() > 0);
        activity.findViewById(R.id.train).setEnabled(ready && state.drawings().size() > 0);
        activity.findViewById(R.id.share).setEnabled(idle && trained);
        activity.findViewById(R.id.save).setEnabled(idle && trained);
        activity.findViewById(R.id.open_model).setEnabled(!state.training());
        activity.findViewById(R.id.more).setEnabled(idle);
    }

    /** Shows the drawing as the model sees it, or nothing if it is null. */
    void showPreview(byte[] image) {
        ImageView view = activity.findViewById(R.id.preview);
        if (image == null) {
            view.setImageDrawable(null);
            return;
        }
        Bitmap bitmap = GalleryView.bitmap(image, activity.getColor(R.color.ink));
        BitmapDrawable drawable = new BitmapDrawable(resources, bitmap);
        drawable.setFilterBitmap(false); // The pixels should be visible.
        view.setImageDrawable(drawable);
    }

    private void showModel(LearnerState state) {
        ModelMetadata model = state.model();
        NumberFormat whole = NumberFormat.getIntegerInstance();
        setText(R.id.origin, resources.getString(
                state.builtIn() ? R.string.model_built_in : R.string.model_picked));
        setText(R.id.architecture, model.architectureText());
        setText(R.id.parameters, whole.format(model.parameters));
        setText(R.id.macs, whole.format(model.macs));
        setText(R.id.round, whole.format(model.round));
        setText(R.id.base, model.supernetHash.substring(0, 12));
    }

    private void showLabels(List<String> names, boolean enabled) {
        ViewGroup rows = activity.findViewById(R.id.labels);
        if (!names.equals(labels)) {
            labels = names;
            rows.removeAllViews();
            int gap = resources.getDimensionPixelSize(R.dimen.label_gap);
            LinearLayout row = null;
            for (int label = 0; label < names.size(); label++) {
                if (label % LABELS_IN_A_ROW == 0) {
                    row = new LinearLayout(activity);
                    rows.addView(row);
                }
                Button button = (Button) activity.getLayoutInflater().inflate(R.layout.label, row, false);
                LinearLayout.LayoutParams place = (LinearLayout.LayoutParams) button.getLayoutParams();
                place.topMargin = label < LABELS_IN_A_ROW ? 0 : gap;
                place.setMarginStart(label % LABELS_IN_A_ROW == 0 ? 0 : gap);
                button.setText(names.get(label));
                button.setContentDescription(
                        resources.getString(R.string.teach_description, names.get(label)));
                int chosen = label;
                button.setOnClickListener(view -> onLabel.accept(chosen));
                row.addView(button);
            }
        }
        for (int row = 0; row < rows.getChildCount(); row++) {
            ViewGroup buttons = (ViewGroup) rows.getChildAt(row);
            for (int place = 0; place < buttons.getChildCount(); place++) {
                buttons.getChildAt(place).setEnabled(enabled);
            }
        }
    }

    private void showAnswer(LearnerState state) {
        float[] probabilities = state.answer();
        TextView answer = activity.findViewById(R.id.answer);
        ConfidenceBars bars = activity.findViewById(R.id.bars);
        bars.show(state.model().classNames, probabilities);
        if (probabilities == null) {
            answer.setText(R.string.answer_none);
            answer.setContentDescription(null);
            setText(R.id.confidence, resources.getString(R.string.answer_waiting));
            return;
        }
        int best = 0;
        for (int label = 0; label < probabilities.length; label++) {
            best = probabilities[label] > probabilities[best] ? label : best;
        }
        String name = state.model().classNames.get(best);
        String sure = NumberFormat.getPercentInstance().format(probabilities[best]);
        answer.setText(name);
        answer.setContentDescription(resources.getString(R.string.answer_description, name, sure));
        setText(R.id.confidence, resources.getString(R.string.answer_sure, sure));
    }

    private void showTraining(LearnerState state, boolean trained) {
        int count = state.drawings().size();
        setText(R.id.drawings, count == 0 ? resources.getString(R.string.drawings_none)
                : resources.getString(R.string.drawings_of,
                        resources.getQuantityString(R.plurals.drawings, count, count), classes(state)));
        GalleryView gallery = activity.findViewById(R.id.gallery);
        gallery.setVisibility(count == 0 ? View.GONE : View.VISIBLE);
        gallery.show(state.drawings(), state.model());
        LossChart chart = activity.findViewById(R.id.chart);
        chart.show(state.losses(), state.steps());
        showScore(R.id.before, R.id.loss_before, state.before());
        showScore(R.id.after, R.id.loss_after, trained ? state.after() : null);
        setText(R.id.train, resources.getString(state.training() ? R.string.stop : R.string.train));
    }

    private void showScore(int accuracy, int loss, Score score) {
        setText(accuracy, score == null ? resources.getString(R.string.score_none)
                : NumberFormat.getPercentInstance().format(score.accuracy()));
        setText(loss, score == null ? "" : resources.getString(R.string.loss, score.loss()));
    }

    /** Returns the names of the classes that were drawn, such as 0, 3, 7. */
    private static String classes(LearnerState state) {
        StringBuilder text = new StringBuilder();
        int[] counts = state.counts();
        for (int label = 0; label < counts.length; label++) {
            if (counts[label] > 0) {
                text.append(text.length() == 0 ? "" : ", ").append(state.model().classNames.get(label));
            }
        }
        return text.toString();
    }

    private void setText(int view, String text) {
        ((TextView) activity.findViewById(view)).setText(text);
    }
}
