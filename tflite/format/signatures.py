"""Names of the signatures of an exported `.tflite` and of their tensors.

The runtime finds a signature and its tensors by these names, in Python, Java and C++ alike.
Variables have the names of the supernet's tensors, such as `mb1_0/depthwise/kernel`; each
parametric normalization also has a frozen mean square, such as `stem_norm/mean_square`.

* `train`: runs one step of SGD on a batch; pad a batch smaller than the exported size with any
  examples of sample weight 0.
* `train_head`: the same, but updates only the classifier and the normalizations.
* `infer`: returns the logits of images, each independent of the other images.
* `evaluate`: returns the mean loss and the number of correct predictions, with the weights that
  `infer` uses.
* `save`: returns all variables by name; its input is ignored, but a signature needs one.
* `restore`: sets all variables, resets the momentum, and forgets which classes it was trained on.
  The runtime reads missing tensors as zeros, so check the names before calling it.
"""

TRAIN = "train"
TRAIN_HEAD = "train_head"
INFER = "infer"
EVALUATE = "evaluate"
SAVE = "save"
RESTORE = "restore"

# uint8 (batch, height, width, channels), unnormalized.
IMAGES = "images"
# int32 (batch,), class indices.
LABELS = "labels"
# float32 (batch,), nonnegative.
SAMPLE_WEIGHTS = "sample_weights"
# float32 scalar.
LEARNING_RATE = "learning_rate"
# float32 scalar, ignored.
DUMMY = "dummy"

# float32 scalar, weighted mean of the cross-entropy.
LOSS = "loss"
# float32 scalar, sum of the sample weights of correctly classified images.
CORRECT = "correct"
# float32 (batch, classes).
LOGITS = "logits"
# int32 scalar, 1.
OK = "ok"

# Inputs and outputs of each signature; `save` also returns and `restore` also takes the variables.
INPUTS = {
    TRAIN: (IMAGES, LABELS, SAMPLE_WEIGHTS, LEARNING_RATE),
    TRAIN_HEAD: (IMAGES, LABELS, SAMPLE_WEIGHTS, LEARNING_RATE),
    INFER: (IMAGES,),
    EVALUATE: (IMAGES, LABELS, SAMPLE_WEIGHTS),
    SAVE: (DUMMY,),
    RESTORE: (),
}
OUTPUTS = {
    TRAIN: (LOSS, CORRECT),
    TRAIN_HEAD: (LOSS, CORRECT),
    INFER: (LOGITS,),
    EVALUATE: (LOSS, CORRECT),
    SAVE: (),
    RESTORE: (OK,),
}
