package org.fedsup.demo;

import android.app.Activity;
import android.content.Context;
import android.content.SharedPreferences;
import android.net.Uri;
import android.util.AttributeSet;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.Switch;
import android.widget.TextView;
import org.fedsup.trainer.FederationException;

/** Card with the switch for learning together with other phones, and the latest outcome. */
public final class TogetherCard extends LinearLayout {
    private static final String SCHEME = "fedsup";

    private final Together together;
    // Held here, since the settings keep only a weak reference to it.
    private final SharedPreferences.OnSharedPreferenceChangeListener watcher =
            (settings, name) -> show();
    private Switch on;
    private EditText server;
    private EditText token;

    /** Creates the card when its layout is inflated. */
    public TogetherCard(Context context, AttributeSet attributes) {
        super(context, attributes);
        together = new Together(context.getApplicationContext());
    }

    @Override
    protected void onFinishInflate() {
        super.onFinishInflate();
        on = findViewById(R.id.together);
        server = findViewById(R.id.together_server);
        token = findViewById(R.id.together_token);
        server.setText(together.server());
        token.setText(together.token());
        on.setChecked(together.isOn());
        on.setOnCheckedChangeListener((view, wanted) -> change(wanted));
    }

    @Override
    protected void onAttachedToWindow() {
        super.onAttachedToWindow();
        together.settings().registerOnSharedPreferenceChangeListener(watcher);
        takeLink();
        if (together.isOn() && !TogetherJobService.isScheduled(getContext())) {
            TogetherJobService.schedule(getContext(), 0); // The phone was restarted.
        }
        show();
    }

    @Override
    protected void onDetachedFromWindow() {
        together.settings().unregisterOnSharedPreferenceChangeListener(watcher);
        super.onDetachedFromWindow();
    }

    /** Fills in a link that the camera read; it is used once the user turns the switch on. */
    private void takeLink() {
        Uri link = getContext() instanceof Activity
                ? ((Activity) getContext()).getIntent().getData() : null;
        if (link != null && SCHEME.equals(link.getScheme())) {
            ((Activity) getContext()).getIntent().setData(null); // Once, despite rotation.
            on.setChecked(false);
            server.setText(link.toString());
            token.setText("");
        }
    }

    private void change(boolean wanted) {
        if (!wanted) {
            together.turnOff();
            TogetherJobService.cancel(getContext());
        } else if (!together.isOn()) {
            try {
                together.turnOn(server.getText().toString(), token.getText().toString());
                TogetherJobService.schedule(getContext(), 0);
            } catch (FederationException error) {
                on.setChecked(false);
                ((DemoApplication) getContext().getApplicationContext())
                        .learner().report(error.getMessage());
            }
        }
        show();
    }

    private void show() {
        boolean isOn = together.isOn();
        server.setEnabled(!isOn);
        token.setEnabled(!isOn);
        ((TextView) findViewById(R.id.together_outcome)).setText(together.outcome());
    }
}
