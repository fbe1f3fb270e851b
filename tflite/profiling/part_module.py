"""TensorFlow functions of a single part of a subnet: its share of `infer` and of `train`."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from fedsup_tf import calibration
from fedsup_tf.architecture import Architecture
from fedsup_tf.block import select_prefix, with_prefixes
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.ops import ops
from fedsup_tf.search.cost_parts import Part
from fedsup_tf.search.costs import map_size
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tflite.export.conversion import trace
from tflite.export.sgd_module import SgdModule
from tflite.export.training_module import score

# A part that computes nothing, to measure the overhead of a call.
NOTHING = Part("nothing")


class PartModel(SgdModule):
    """A part of a subnet with its variables, as in `training_module.TrainingModule`.

    Inference folds the frozen mean squares into the kernels. A training step computes the part and
    its gradients with respect to the weights and the inputs (except for images), and updates the
    weights. Inputs and upstream gradients, which other parts would compute, are arguments. The
    result is a single value that depends on all outputs, so no operation is optimized away and
    nothing large is copied.

    Attributes:
      compute: Function that maps weights, inputs and sample weights to the part's outputs and mean
        squares.
    """

    def __init__(
        self,
        supernet: Supernet,
        part: Part,
        preprocessing: Preprocessing,
        training: LocalTraining,
    ):
        """Creates the part with the supernet's weights.

        Args:
          supernet: Supernet that provides the weights and the search space.
          part: One of `parts_of_space`, or `NOTHING`.
          preprocessing: Normalization of the images that enter the stem.
          training: Hyper-parameters of a step.
        """
        subnet = supernet.extract(_architecture_with(supernet.space, part))
        prefixes = _prefixes(subnet, part)
        weights = {
            name: value.numpy()
            for name, value in subnet.weights_by_name().items()
            if name.startswith(prefixes)
        }
        shapes = calibration.mean_square_shapes({n: value.shape for n, value in weights.items()})
        ones = {name: tf.ones(shape).numpy() for name, shape in shapes.items()}
        super().__init__(weights, ones, training)
        self._space = subnet.space
        self._part = part
        self.compute = _compute(subnet, part, preprocessing)

    def infer(self, batch_size: int) -> Any:
        """Traces the part's share of `infer`, a function of `inputs`."""
        return trace(self._infer, self._inputs(batch_size))

    def train(self, batch_size: int) -> Any:
        """Traces the part's share of `train`.

        It is a function of `inputs`, `upstream` (labels for the head, otherwise gradients),
        `sample_weights` and `learning_rate`.
        """
        return trace(
            self._train,
            self._inputs(batch_size),
            self._upstream(batch_size),
            tf.TensorSpec([batch_size], tf.float32, "sample_weights"),
            tf.TensorSpec([], tf.float32, "learning_rate"),
        )

    def _inputs(self, batch: int) -> tf.TensorSpec:
        space, part = self._space, self._part
        if part.kind == "stem":
            return tf.TensorSpec([batch, *space.image_shape], tf.uint8, "inputs")
        if part.kind == "stage":
            shape = [*map_size(space, part.stage), part.in_width]
        elif part.kind == "head":
            shape = [*map_size(space, len(space.stages)), part.in_width]
        else:
            shape = [1]
        return tf.TensorSpec([batch, *shape], tf.float32, "inputs")

    def _upstream(self, batch: int) -> tf.TensorSpec:
        space, part = self._space, self._part
        if part.kind == "head":
            return tf.TensorSpec([batch], tf.int32, "upstream")
        if part.kind == "stem":
            shape = [*map_size(space, 0), space.stem_width]
        elif part.kind == "stage":
            shape = [*map_size(space, part.stage + 1), part.width]
        else:
            shape = [1]
        return tf.TensorSpec([batch, *shape], tf.float32, "upstream")

    # ------------------------------------------------------------------ compute

    def _infer(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        weights, frozen = self.unpack(self.read())
        with ops.builtin_operators():
            outputs, _ = self.compute(calibration.fold(weights, frozen), inputs, None)
        return {"result": _first(outputs)}

    def _train(
        self,
        inputs: tf.Tensor,
        upstream: tf.Tensor,
        sample_weights: tf.Tensor,
        learning_rate: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        packed = self.read()
        weights, _ = self.unpack(packed)
        with ops.builtin_operators():
            gradients, mean_squares, result = self._gradients(
                weights, inputs, upstream, sample_weights
            )
        self.step(packed, gradients, mean_squares, sample_weights, learning_rate)
        return {"result": result}

    def _gradients(
        self,
        weights: Mapping[str, tf.Tensor],
        inputs: tf.Tensor,
        upstream: tf.Tensor,
        sample_weights: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], tf.Tensor]:
        entered = [] if self._part.kind == "stem" else [inputs]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([weights, entered])
            outputs, mean_squares = self.compute(weights, inputs, sample_weights)
        result = _first(outputs)
        if self._part.kind == "head":
            smoothing = self._training.label_smoothing
            loss, correct, upstream = score(outputs, upstream, sample_weights, smoothing)
            result += loss + correct
        gradients, before = tape.gradient(outputs, (weights, entered), output_gradients=upstream)
        return gradients, mean_squares, result + sum(map(_first, before))


# Maps weights by name, inputs and sample weights to outputs and mean squares by name.
_Compute = Callable[[Mapping[str, tf.Tensor], tf.Tensor, tf.Tensor | None], tuple[tf.Tensor, dict]]


def _compute(subnet: Supernet, part: Part, preprocessing: Preprocessing) -> _Compute:
    def nothing(weights, inputs, sample_weights):
        del weights, sample_weights
        return inputs * 2.0, {}

    def stem(weights, inputs, sample_weights):
        images = preprocessing.normalize(inputs)
        maps = subnet.stem.forward(select_prefix("stem", weights), images)
        norm = subnet.stem_norm
        maps, mean_squares = norm.normalize(select_prefix(norm.name, weights), maps, sample_weights)
        return maps, with_prefixes({norm: mean_squares})

    def stage(weights, maps, sample_weights):
        statistics = {}
        for block in subnet.blocks[part.stage]:
            maps, mean_squares = block.forward(
                select_prefix(block.name, weights), maps, sample_weights
            )
            statistics.update(with_prefixes({block: mean_squares}))
        return maps, statistics

    def head(weights, inputs, sample_weights):
        del sample_weights
        features = tf.reduce_mean(inputs, [1, 2])
        return subnet.head.forward(select_prefix("head", weights), features), {}

    return {"nothing": nothing, "stem": stem, "stage": stage, "head": head}[part.kind]


def _architecture_with(space: SearchSpace, part: Part) -> Architecture:
    """Returns the smallest architecture that has the part."""
    smallest = space.smallest()
    widths, depths, kernels = map(list, (smallest.widths, smallest.depths, smallest.kernels))
    if part.kind == "stage":
        widths[part.stage], depths[part.stage] = part.width, part.depth
        kernels[part.stage] = part.kernel
        if part.stage:
            widths[part.stage - 1] = part.in_width
    if part.kind == "head":
        widths[-1] = part.in_width
    # A part that computes nothing has no resolution of its own.
    resolution = part.resolution or smallest.resolution
    return Architecture(tuple(widths), tuple(depths), tuple(kernels), resolution)


def _prefixes(subnet: Supernet, part: Part) -> tuple[str, ...]:
    """Returns the name prefixes of the part's tensors."""
    if part.kind == "stage":
        return tuple(f"{block.name}/" for block in subnet.blocks[part.stage])
    return {"nothing": (), "stem": ("stem/", "stem_norm/"), "head": ("head/",)}[part.kind]


def _first(values: tf.Tensor) -> tf.Tensor:
    """Returns the first value as a tensor of shape `(1,)`."""
    return tf.reshape(tf.slice(values, [0] * len(values.shape), [1] * len(values.shape)), [1])
