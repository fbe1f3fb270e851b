package org.fedsup.trainer;

import java.io.Closeable;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.tensorflow.lite.DataType;
import org.tensorflow.lite.Interpreter;
import org.tensorflow.lite.Tensor;
import org.tensorflow.lite.TensorFlowLite;

/**
 * Measures signatures of one model, as tflite/profiling/timing.py does. Images and feature maps are
 * random, every example has weight 1, and the learning rate is 0, which keeps the weights as they
 * are.
 */
final class SignatureTimer implements Closeable {
    // Bytes that are overwritten to flush a core's cache; more than it holds.
    private static final int CACHE_BYTES = 8 << 20;

    private final Interpreter interpreter;
    private final byte[] others = new byte[CACHE_BYTES];
    private final Random random = new Random(0);

    /** Opens a model. */
    SignatureTimer(byte[] model, int threads) throws UnusableFileException {
        Interpreter.Options options = new Interpreter.Options();
        options.setNumThreads(threads);
        options.setUseXNNPACK(true);
        Arrays.fill(others, (byte) 1);
        try {
            interpreter =
                    new Interpreter(Buffers.rewound(Buffers.bytes(model.length).put(model)), options);
        } catch (IllegalArgumentException | IllegalStateException error) {
            throw new UnusableFileException(
                    "A part model cannot be opened: export the parts with this version.", error);
        }
    }

    /** Returns the runtime's name and version, for display. */
    static String runtimeVersion() {
        return "TensorFlow Lite " + TensorFlowLite.runtimeVersion();
    }

    /**
     * Measures the shortest time of each signature, with a cold processor cache. The signatures
     * take turns, so that other load affects them all alike; it only ever makes a call longer.
     *
     * @param repetitions the number of measured turns, which follow a warm-up turn
     * @return milliseconds, in the order of the signatures
     */
    double[] minMilliseconds(List<String> signatures, int repetitions) throws UnusableFileException {
        double[] least = new double[signatures.size()];
        Arrays.fill(least, Double.POSITIVE_INFINITY);
        try {
            Runnable[] calls = new Runnable[least.length];
            for (int number = 0; number < calls.length; number++) {
                calls[number] = prepare(signatures.get(number));
            }
            for (int turn = 0; turn <= repetitions; turn++) {
                for (int number = 0; number < calls.length; number++) {
                    for (int place = 0; place < others.length; place++) {
                        others[place] = (byte) -others[place];
                    }
                    long begin = System.nanoTime();
                    calls[number].run();
                    double taken = (System.nanoTime() - begin) / 1e6;
                    if (turn > 0) {
                        least[number] = Math.min(least[number], taken);
                    }
                }
            }
        } catch (IllegalArgumentException | IllegalStateException error) {
            throw new UnusableFileException(
                    "A part model cannot be run: export the parts with this version.", error);
        }
        return least;
    }

    @Override
    public void close() {
        interpreter.close();
    }

    private Runnable prepare(String signature) {
        Map<String, Object> inputs = new HashMap<>();
        for (String name : interpreter.getSignatureInputs(signature)) {
            inputs.put(name, value(name, interpreter.getInputTensorFromSignature(name, signature)));
        }
        Map<String, Object> outputs = new HashMap<>();
        for (String name : interpreter.getSignatureOutputs(signature)) {
            outputs.put(name, Buffers.bytes(
                    interpreter.getOutputTensorFromSignature(name, signature).numBytes()));
        }
        return () -> {
            // The runtime writes at the buffer's position.
            outputs.values().forEach(buffer -> Buffers.rewound((ByteBuffer) buffer));
            interpreter.runSignature(inputs, outputs, signature);
        };
    }

    private ByteBuffer value(String name, Tensor tensor) {
        ByteBuffer buffer = Buffers.bytes(tensor.numBytes());
        if (name.equals(Signatures.LEARNING_RATE)) {
            return buffer; // Zeros, as for labels.
        }
        boolean isWeight = name.equals(Signatures.SAMPLE_WEIGHTS);
        DataType type = tensor.dataType();
        while (buffer.hasRemaining() && type == DataType.UINT8) {
            buffer.put((byte) random.nextInt(256));
        }
        while (buffer.hasRemaining() && type == DataType.FLOAT32) {
            buffer.putFloat(isWeight ? 1 : (float) random.nextGaussian());
        }
        return Buffers.rewound(buffer);
    }
}
