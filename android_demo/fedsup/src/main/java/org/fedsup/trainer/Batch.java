package org.fedsup.trainer;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Inputs of a signature that takes labelled images; short batches are padded with weight 0. */
final class Batch {
    private final ModelMetadata model;
    private final int size;
    private final ByteBuffer images;
    private final IntBuffer labels;
    private final FloatBuffer weights;

    /** Allocates the buffers of a batch. */
    Batch(ModelMetadata model, int size) {
        this.model = model;
        this.size = size;
        images = Buffers.bytes(size * ModelMetadata.count(model.imageShape));
        labels = Buffers.ints(size);
        weights = Buffers.floats(size);
    }

    /** Returns the inputs by name, for at least 1 example and at most the batch size. */
    Map<String, Object> fill(List<Example> examples) {
        if (examples.isEmpty() || examples.size() > size) {
            throw new IllegalArgumentException(
                    "Expected 1 to " + size + " examples, received " + examples.size() + ".");
        }
        Buffers.rewound(images);
        for (int place = 0; place < size; place++) {
            boolean present = place < examples.size();
            Example example = examples.get(present ? place : 0);
            checkImage(model, example.image());
            if (example.label() < 0 || example.label() >= model.classNames.size()) {
                throw new IllegalArgumentException("Expected a label below "
                        + model.classNames.size() + ", received " + example.label() + ".");
            }
            images.put(example.image());
            labels.put(place, example.label());
            weights.put(place, present ? 1f : 0f);
        }
        Map<String, Object> inputs = new HashMap<>();
        inputs.put(Signatures.IMAGES, Buffers.rewound(images));
        inputs.put(Signatures.LABELS, labels);
        inputs.put(Signatures.SAMPLE_WEIGHTS, weights);
        return inputs;
    }

    static void checkImage(ModelMetadata model, byte[] image) {
        if (image.length != ModelMetadata.count(model.imageShape)) {
            throw new IllegalArgumentException("Expected an image of shape "
                    + Arrays.toString(model.imageShape) + ", received " + image.length + " bytes.");
        }
    }
}
