package org.fedsup.trainer;

import java.io.Closeable;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.TreeSet;
import org.tensorflow.lite.Interpreter;
import org.tensorflow.lite.TensorFlowLite;

/**
 * Trains a subnet and runs inference with it, on TensorFlow Lite. Of Android's classes it uses only
 * org.json. Not thread-safe.
 */
public final class Trainer implements Closeable {
    /** Variables that a training step updates. */
    public enum Part {
        /** All trainable variables. */
        ALL(Signatures.TRAIN),
        /** The classifier and the normalizations: needs less memory; not in all models. */
        HEAD(Signatures.TRAIN_HEAD);

        final String signature;

        Part(String signature) {
            this.signature = signature;
        }
    }

    private final ModelMetadata metadata;
    private final int imageSize;
    private final Interpreter interpreter;
    private final Batch trainBatch;
    private final Batch evaluateBatch;
    private final FloatBuffer loss = Buffers.floats(1);
    private final FloatBuffer correct = Buffers.floats(1);
    private final Map<String, Object> scores = new HashMap<>();

    /**
     * Loads a model.
     *
     * @param file the content of a .tflite file that {@code fedsup export} wrote
     * @param threads the number of threads for the larger operations; 1 is best for small images,
     *     and on devices with too few cores for the runtime's two pools of this many threads
     * @throws UnusableFileException if it is not such a file
     */
    public Trainer(byte[] file, int threads) throws UnusableFileException {
        metadata = ModelMetadata.read(file);
        imageSize = ModelMetadata.count(metadata.imageShape);
        ByteBuffer model = Buffers.rewound(Buffers.bytes(file.length).put(file));
        Interpreter.Options options = new Interpreter.Options();
        options.setNumThreads(threads);
        options.setUseXNNPACK(true); // The kernels that fedsup certify checks training with.
        Interpreter opened = null;
        try {
            opened = new Interpreter(model, options);
            check(opened);
        } catch (IllegalArgumentException | IllegalStateException | UnusableFileException error) {
            if (opened != null) {
                opened.close();
            }
            throw new UnusableFileException(
                    "This model is damaged or of another version: export it again.", error);
        }
        interpreter = opened;
        trainBatch = new Batch(metadata, metadata.trainBatch);
        evaluateBatch = new Batch(metadata, metadata.evaluateBatch);
        scores.put(Signatures.LOSS, loss);
        scores.put(Signatures.CORRECT, correct);
    }

    /**
     * Returns the name and version of the runtime that models are trained with.
     *
     * @return the name and version, such as {@code tensorflow-lite 2.16.1}
     */
    public static String runtime() {
        return "tensorflow-lite " + TensorFlowLite.runtimeVersion();
    }

    /**
     * Returns the model's metadata.
     *
     * @return the metadata
     */
    public ModelMetadata metadata() {
        return metadata;
    }

    /**
     * Returns whether the model can train a part; it can always train {@link Part#ALL}.
     *
     * @param part the variables to update
     * @return true if the model can train it
     */
    public boolean canTrain(Part part) {
        return Arrays.asList(interpreter.getSignatureKeys()).contains(part.signature);
    }

    /**
     * Returns the maximum number of examples in a training step.
     *
     * @return the number of examples
     */
    public int batchSize() {
        return metadata.trainBatch;
    }

    /**
     * Performs one step of SGD.
     *
     * @param examples 1 to {@link #batchSize()} examples
     * @param learningRate the learning rate of the step
     * @param part the variables to update
     * @return the mean loss before the step
     */
    public float train(List<Example> examples, float learningRate, Part part) {
        if (!canTrain(part)) {
            throw new IllegalArgumentException("This model has no " + part.signature
                    + ": export it with one, or train " + Part.ALL + ".");
        }
        Map<String, Object> inputs = trainBatch.fill(examples);
        FloatBuffer rate = Buffers.floats(1);
        rate.put(0, learningRate);
        inputs.put(Signatures.LEARNING_RATE, rate);
        score(inputs, part.signature);
        return loss.get(0);
    }

    /**
     * Computes the mean loss and the accuracy.
     *
     * @param examples at least one example
     * @return the score
     */
    public Score evaluate(List<Example> examples) {
        if (examples.isEmpty()) {
            throw new IllegalArgumentException("Expected at least one example, received none.");
        }
        double losses = 0;
        double right = 0;
        for (int begin = 0; begin < examples.size(); begin += metadata.evaluateBatch) {
            int end = Math.min(examples.size(), begin + metadata.evaluateBatch);
            score(evaluateBatch.fill(examples.subList(begin, end)), Signatures.EVALUATE);
            losses += (double) loss.get(0) * (end - begin);
            right += correct.get(0);
        }
        return new Score(examples.size(), losses / examples.size(), right / examples.size());
    }

    /**
     * Classifies an image.
     *
     * @param image height * width * channels unsigned bytes, row by row
     * @return the probability of each class
     */
    public float[] infer(byte[] image) {
        Batch.checkImage(metadata, image);
        ByteBuffer images = Buffers.rewound(Buffers.bytes(metadata.inferBatch * imageSize).put(image));
        int classes = metadata.classNames.size();
        FloatBuffer logits = Buffers.floats(metadata.inferBatch * classes);
        Map<String, Object> inputs = new HashMap<>();
        inputs.put(Signatures.IMAGES, images);
        Map<String, Object> outputs = new HashMap<>();
        outputs.put(Signatures.LOGITS, logits);
        interpreter.runSignature(inputs, outputs, Signatures.INFER);
        float[] first = new float[classes];
        Buffers.rewound(logits).get(first);
        return softmax(first);
    }

    /**
     * Returns a copy of all variables, including the frozen ones.
     *
     * @return row-major values by variable name
     */
    public SortedMap<String, float[]> weights() {
        Map<String, Object> outputs = new HashMap<>();
        metadata.variables.forEach((name, shape) -> outputs.put(name, Buffers.floats(ModelMetadata.count(shape))));
        Map<String, Object> inputs = new HashMap<>();
        inputs.put(Signatures.DUMMY, Buffers.floats(1));
        interpreter.runSignature(inputs, outputs, Signatures.SAVE);
        SortedMap<String, float[]> weights = new TreeMap<>();
        outputs.forEach((name, buffer) -> {
            float[] values = new float[((FloatBuffer) buffer).capacity()];
            Buffers.rewound((FloatBuffer) buffer).get(values);
            weights.put(name, values);
        });
        return weights;
    }

    /**
     * Sets all variables and resets the momentum.
     *
     * @param weights row-major values by variable name, as {@link #weights} returns them
     * @throws IllegalArgumentException if a variable is missing, unknown or of another size. The
     *     runtime itself would read a missing one as zeros.
     */
    public void restore(Map<String, float[]> weights) {
        Set<String> different = new TreeSet<>(metadata.variables.keySet());
        different.removeAll(weights.keySet());
        Set<String> unknown = new TreeSet<>(weights.keySet());
        unknown.removeAll(metadata.variables.keySet());
        different.addAll(unknown);
        if (!different.isEmpty()) {
            throw new IllegalArgumentException("Expected the " + metadata.variables.size()
                    + " variables of this model, received " + weights.size() + "; missing or unknown: "
                    + different);
        }
        Map<String, Object> inputs = new HashMap<>();
        metadata.variables.forEach((name, shape) -> {
            float[] values = weights.get(name);
            if (values.length != ModelMetadata.count(shape)) {
                throw new IllegalArgumentException("Expected " + name + " of shape "
                        + Arrays.toString(shape) + ", received " + values.length + " values.");
            }
            inputs.put(name, Buffers.rewound(Buffers.floats(values.length).put(values)));
        });
        Map<String, Object> outputs = new HashMap<>();
        outputs.put(Signatures.OK, Buffers.ints(1));
        interpreter.runSignature(inputs, outputs, Signatures.RESTORE);
    }

    @Override
    public void close() {
        interpreter.close();
    }

    /** Runs a signature that returns a loss and the number of correct answers. */
    private void score(Map<String, Object> inputs, String signature) {
        Buffers.rewound(loss); // The runtime writes at the buffer's position.
        Buffers.rewound(correct);
        interpreter.runSignature(inputs, scores, signature);
    }

    /** Checks the signatures against the metadata, so that no later call fails because of them. */
    private void check(Interpreter opened) throws UnusableFileException {
        List<String> present = Arrays.asList(opened.getSignatureKeys());
        for (String signature : Signatures.INPUTS.keySet()) {
            if (!present.contains(signature)) {
                if (Signatures.OPTIONAL.contains(signature)) {
                    continue;
                }
                throw new UnusableFileException("The signature " + signature + " is missing.");
            }
            expect(signature, Signatures.INPUTS.get(signature), Signatures.RESTORE,
                    opened.getSignatureInputs(signature));
            expect(signature, Signatures.OUTPUTS.get(signature), Signatures.SAVE,
                    opened.getSignatureOutputs(signature));
        }
        for (Map.Entry<String, int[]> variable : metadata.variables.entrySet()) {
            int[] shape = opened.getInputTensorFromSignature(variable.getKey(), Signatures.RESTORE).shape();
            if (!Arrays.equals(shape, variable.getValue())) {
                throw new UnusableFileException("The variable " + variable.getKey() + " differs.");
            }
        }
        checkImages(opened, Signatures.TRAIN, metadata.trainBatch);
        checkImages(opened, Signatures.EVALUATE, metadata.evaluateBatch);
        checkImages(opened, Signatures.INFER, metadata.inferBatch);
        int[] logits = opened.getOutputTensorFromSignature(Signatures.LOGITS, Signatures.INFER).shape();
        if (!Arrays.equals(logits, new int[] {metadata.inferBatch, metadata.classNames.size()})) {
            throw new UnusableFileException("The classes differ.");
        }
    }

    private void checkImages(Interpreter opened, String signature, int batch)
            throws UnusableFileException {
        int[] shape = opened.getInputTensorFromSignature(Signatures.IMAGES, signature).shape();
        int[] image = metadata.imageShape;
        if (!Arrays.equals(shape, new int[] {batch, image[0], image[1], image[2]})) {
            throw new UnusableFileException("The images of " + signature + " differ.");
        }
    }

    private void expect(String signature, List<String> names, String withVariables, String[] found)
            throws UnusableFileException {
        Set<String> expected = new TreeSet<>(names);
        if (signature.equals(withVariables)) {
            expected.addAll(metadata.variables.keySet());
        }
        if (!expected.equals(new TreeSet<>(Arrays.asList(found)))) {
            throw new UnusableFileException("The tensors of " + signature + " differ.");
        }
    }

    private static float[] softmax(float[] logits) {
        float largest = Float.NEGATIVE_INFINITY;
        for (float logit : logits) {
            largest = Math.max(largest, logit);
        }
        float sum = 0;
        for (int label = 0; label < logits.length; label++) {
            logits[label] = (float) Math.exp(logits[label] - largest);
            sum += logits[label];
        }
        for (int label = 0; label < logits.length; label++) {
            logits[label] /= sum;
        }
        return logits;
    }
}
