"""Names of the signatures of an exported `.tflite` and of their tensors, said once.

The runtime finds a signature and its tensors by these names, in Python, Java and C++ alike.
Variables carry the names of the supernet's tensors, such as `mb1_0/depthwise/kernel`; beside a
parametric normalization's there is its frozen mean square, such as `stem_norm/mean_square`.

* `train`: one step of SGD on a batch; a batch short of the exported size is filled up with anything
  under sample weight 0.
* `train_head`: the same, moving only the classifier and the normalizations.
* `infer`: logits of images, each for itself.
* `evaluate`: mean loss and number of right answers, with the weights that `infer` uses.
* `save`: every variable by name; the dummy is ignored, since a signature needs an input.
* `restore`: sets every variable and forgets the momentum. The runtime reads a tensor that was left
  out as zeros, so check the names before calling it.
"""

TRAIN = "train"
TRAIN_HEAD = "train_head"
INFER = "infer"
EVALUATE = "evaluate"
SAVE = "save"
RESTORE = "restore"

# uint8 (batch, height, width, channels), as they come from a camera or canvas.
IMAGES = "images"
# int32 (batch,), numbers of classes.
LABELS = "labels"
# float32 (batch,), not negative.
SAMPLE_WEIGHTS = "sample_weights"
# float32 scalar.
LEARNING_RATE = "learning_rate"
# float32 scalar, ignored.
DUMMY = "dummy"

# float32 scalar, weighted mean of the cross-entropy.
LOSS = "loss"
# float32 scalar, sum of the weights of the images whose largest logit is their label's.
CORRECT = "correct"
# float32 (batch, classes).
LOGITS = "logits"
# int32 scalar, 1.
OK = "ok"

# Inputs and outputs of each signature; those of `save` and `restore` are the variables as well.
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
