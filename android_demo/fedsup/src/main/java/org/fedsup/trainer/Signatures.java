package org.fedsup.trainer;

import java.util.List;
import java.util.Map;

/**
 * Names of a model's signatures and of their tensors. They are the same as in
 * tflite/format/signatures.py, which documents each of them.
 */
final class Signatures {
    static final String TRAIN = "train";
    static final String TRAIN_HEAD = "train_head";
    static final String INFER = "infer";
    static final String EVALUATE = "evaluate";
    static final String SAVE = "save";
    static final String RESTORE = "restore";

    static final String IMAGES = "images";
    static final String LABELS = "labels";
    static final String SAMPLE_WEIGHTS = "sample_weights";
    static final String LEARNING_RATE = "learning_rate";
    static final String DUMMY = "dummy";

    static final String LOSS = "loss";
    static final String CORRECT = "correct";
    static final String LOGITS = "logits";
    static final String OK = "ok";

    /** Inputs of each signature; {@link #RESTORE} also takes all variables. */
    static final Map<String, List<String>> INPUTS = Map.of(
            TRAIN, List.of(IMAGES, LABELS, SAMPLE_WEIGHTS, LEARNING_RATE),
            TRAIN_HEAD, List.of(IMAGES, LABELS, SAMPLE_WEIGHTS, LEARNING_RATE),
            INFER, List.of(IMAGES),
            EVALUATE, List.of(IMAGES, LABELS, SAMPLE_WEIGHTS),
            SAVE, List.of(DUMMY),
            RESTORE, List.of());

    /** Outputs of each signature; {@link #SAVE} also returns all variables. */
    static final Map<String, List<String>> OUTPUTS = Map.of(
            TRAIN, List.of(LOSS, CORRECT),
            TRAIN_HEAD, List.of(LOSS, CORRECT),
            INFER, List.of(LOGITS),
            EVALUATE, List.of(LOSS, CORRECT),
            SAVE, List.of(),
            RESTORE, List.of(OK));

    /** Signatures that a model may lack. */
    static final List<String> OPTIONAL = List.of(TRAIN_HEAD);

    private Signatures() {}
}
