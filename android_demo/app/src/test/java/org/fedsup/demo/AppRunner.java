package org.fedsup.demo;

import org.junit.runners.model.FrameworkMethod;
import org.junit.runners.model.InitializationError;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.internal.bytecode.InstrumentationConfiguration;

/**
 * Runs tests in a simulated Android, with the engine loaded outside of it: a JVM loads a native
 * library into one class loader only, and Robolectric has one for each configuration.
 */
public final class AppRunner extends RobolectricTestRunner {
    public AppRunner(Class<?> test) throws InitializationError {
        super(test);
    }

    @Override
    protected InstrumentationConfiguration createClassLoaderConfig(FrameworkMethod method) {
        return new InstrumentationConfiguration.Builder(super.createClassLoaderConfig(method))
                .doNotAcquirePackage("org.tensorflow.lite.")
                .build();
    }
}
