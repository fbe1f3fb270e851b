"""Tests of the supernet: its subnets, names and shapes of tensors, and its Keras interface."""

import math

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf import slicing
from fedsup_tf.architecture import Architecture
from fedsup_tf.block import ElasticBlock
from fedsup_tf.presets import digits_small
from fedsup_tf.search import costs
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet, has_weight_decay

SPACES = {
    "digits_small": digits_small(image_shape=(9, 7, 1)),
    "group": digits_small(image_shape=(6, 6, 1), normalization="group"),
    "tiny": SearchSpace(
        "tiny",
        (5, 4, 2),
        3,
        3,
        2,
        (
            Stage("first", (2, 3, 4), (1, 3), (1, 3, 7), 1),
            Stage("second", (4, 6), (1, 2), (3, 5), 2),
            Stage("third", (6, 8), (2,), (3,), 1),
        ),
    ),
    # Here only the largest net needs no shortcut convolution.
    "returning": SearchSpace(
        "returning",
        (4, 4, 1),
        2,
        4,
        1,
        (Stage("first", (2, 4), (1,), (3,), 1), Stage("second", (3, 4), (1, 2), (3,), 2)),
    ),
}
TINY = SPACES["tiny"]


def randomized(space, seed=0):
    """Returns a supernet with random weights; initially, residual branches would output zeros."""
    supernet = Supernet(space)
    rng = np.random.default_rng(seed)
    for variable in supernet.weights_by_name().values():
        variable.assign(0.5 * rng.normal(size=variable.shape))
    return supernet


def random_images(space, batch=3, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, *space.image_shape)).astype(np.float32)


def architectures(space, number, seed=2):
    """Returns the smallest, the largest, and `number` random architectures."""
    rng = np.random.default_rng(seed)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(number))]


@pytest.fixture(scope="module", params=SPACES)
def supernet(request):
    return randomized(SPACES[request.param])


@pytest.fixture(scope="module")
def tiny():
    return randomized(TINY)


# ---------------------------------------- law 1 (docs/laws.md): a subnet is a supernet


@pytest.mark.slow
def test_a_subnet_within_the_supernet_computes_as_it_does_extracted(supernet):
    images = random_images(supernet.space)
    for architecture in architectures(supernet.space, 3):
        subnet = supernet.extract(architecture)
        assert subnet.space == supernet.space.fixed_architecture(architecture)
        np.testing.assert_array_equal(supernet(images, architecture), subnet(images))


@pytest.mark.slow
def test_a_subnet_of_a_subnet_is_that_subnet(tiny):
    rng = np.random.default_rng(0)
    for _ in range(4):
        architecture = TINY.sample(rng)
        once = tiny.extract(architecture)
        twice = once.extract(architecture)
        for name, variable in once.weights_by_name().items():
            np.testing.assert_array_equal(twice.weights_by_name()[name], variable)


def test_without_an_architecture_the_largest_computes(tiny):
    images = random_images(TINY)
    np.testing.assert_array_equal(tiny(images), tiny(images, TINY.largest()))
    assert np.abs(tiny(images) - tiny(images, TINY.smallest())).max() > 1e-3


def test_training_does_not_change_what_is_computed(tiny):
    images = random_images(TINY)
    np.testing.assert_array_equal(tiny(images, training=True), tiny(images, training=False))


@pytest.mark.parametrize(
    "architecture",
    [
        TINY.largest(),
        TINY.smallest(),
        Architecture((3, 6, 6), (3, 1, 2), (7, 5, 3)),
        Architecture((4, 4, 6), (1, 2, 2), (1, 3, 3)),
    ],
)
def test_logits_are_those_of_the_architecture_written_in_plain_tensorflow(tiny, architecture):
    weights = {key: variable.numpy() for key, variable in tiny.weights_by_name().items()}

    def norm(prefix, maps, channels):
        alpha, beta, gamma = (
            weights[f"{prefix}/{vector}"][:channels] for vector in ("alpha", "beta", "gamma")
        )
        root = tf.sqrt(tf.reduce_mean((maps - alpha) ** 2, [0, 1, 2]) + 1e-5)
        return gamma * (maps - alpha) / root + beta

    images = random_images(TINY)
    maps = tf.nn.conv2d(images, weights["stem/kernel"], 2, "SAME")
    maps = tf.nn.relu6(norm("stem_norm", maps, 3))
    entering = 3
    for stage, width, depth, side in zip(
        TINY.stages, architecture.widths, architecture.depths, architecture.kernels, strict=True
    ):
        for number in range(depth):
            block = f"{stage.name}_{number}"
            stride = stage.stride if number == 0 else 1
            strides = [1, stride, stride, 1]
            kernel = weights[f"{block}/depthwise/kernel"]
            margin = (len(kernel) - side) // 2
            kernel = kernel[margin : margin + side, margin : margin + side, :entering]
            branch = tf.nn.depthwise_conv2d(maps, kernel, strides, "SAME")
            branch = tf.nn.relu6(norm(f"{block}/depthwise_norm", branch, entering))
            kernel = weights[f"{block}/pointwise/kernel"][:, :, :entering, :width]
            branch = tf.nn.conv2d(branch, kernel, 1, "SAME")
            branch = norm(f"{block}/pointwise_norm", branch, width)
            shortcut = tf.nn.avg_pool2d(maps, 2, 2, "SAME") if stride == 2 else maps
            if entering != width:
                kernel = weights[f"{block}/shortcut/kernel"][:, :, :entering, :width]
                shortcut = tf.nn.conv2d(shortcut, kernel, 1, "SAME")
            maps, entering = branch + shortcut, width
    pooled = tf.reduce_mean(maps, [1, 2])
    expected = pooled @ weights["head/kernel"][:entering] + weights["head/bias"]
    actual = tiny(images, architecture)
    assert actual.shape == (3, 3)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------- architectures as codes in a graph


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "group", "returning"])
def test_one_trace_for_codes_computes_what_each_architecture_does(name):
    supernet = randomized(SPACES[name])
    traces = []

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *supernet.space.image_shape]),
            tf.TensorSpec([len(supernet.space.choices)], tf.int32),
        ]
    )
    def call(images, code):
        traces.append(name)
        return supernet(images, code)

    for batch, architecture in enumerate(architectures(supernet.space, 6), start=1):
        images = random_images(supernet.space, batch)
        actual = call(images, supernet.space.encode(architecture))
        expected = supernet(images, architecture)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert len(traces) == 1


def test_a_code_outside_a_graph_is_its_architecture(tiny):
    images = random_images(TINY)
    architecture = Architecture((3, 6, 6), (3, 1, 2), (7, 5, 3))
    code = TINY.encode(architecture)
    expected = tiny(images, architecture)
    np.testing.assert_array_equal(tiny(images, code), expected)
    np.testing.assert_allclose(tiny(images, tf.constant(code)), expected, rtol=1e-5, atol=1e-5)


def test_code_at_is_the_inverse_of_the_index():
    space = digits_small()
    supernet = Supernet(space)
    code_at = tf.function(supernet.code_at, input_signature=[tf.TensorSpec([], tf.int32)])
    rng = np.random.default_rng(0)
    for index in (0, space.size - 1, *rng.integers(space.size, size=30)):
        np.testing.assert_array_equal(
            code_at(tf.constant(index, tf.int32)), space.encode(space.at(index))
        )


def test_an_architecture_of_another_type_is_an_error(tiny):
    with pytest.raises(TypeError, match="an Architecture or its int32 code, received list"):
        tiny(random_images(TINY), [4, 6, 6, 1, 1, 2, 3, 3, 3])


@pytest.mark.parametrize(
    "architecture",
    [Architecture((4, 5, 6), (1, 1, 2), (3, 3, 3)), np.array([4, 5, 6, 1, 1, 2, 3, 3, 3])],
)
def test_an_architecture_outside_the_space_is_an_error_that_names_the_stage(tiny, architecture):
    with pytest.raises(ValueError, match=r"Stage 'second'.*allows widths"):
        tiny(random_images(TINY), architecture)


def test_a_code_of_another_length_is_an_error(tiny):
    with pytest.raises(ValueError, match="a code of 9 numbers, received 8"):
        tiny(random_images(TINY), np.zeros(8, np.int32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="input \\[8\\] is not compatible"):
        tiny(random_images(TINY), tf.zeros([8], tf.int32))


# ------------------------------------------ law 5 (docs/laws.md): slices are counted


def test_slices_hold_as_many_values_as_the_cost_says_and_the_subnet_has(supernet):
    space = supernet.space
    for number, architecture in enumerate(architectures(space, 20)):
        slices = supernet.slices(architecture)
        parameters = costs.count_parameters(space, architecture)
        assert sum(math.prod(part.size) for part in slices.values()) == parameters
        # Extracting takes longer than everything else.
        if number < 5:
            subnet = supernet.extract(architecture)
            assert sum(int(np.prod(variable.shape)) for variable in subnet.weights) == parameters


def test_slices_within_a_subnet_cut_what_slices_of_the_supernet_cut(supernet):
    space = supernet.space
    weights = supernet.weights_by_name()
    rng = np.random.default_rng(3)
    for _ in range(10):
        # The elementwise minimum and maximum of two architectures.
        codes = np.stack([space.encode(space.sample(rng)) for _ in range(2)])
        inner, outer = (space.decode(code) for code in (codes.min(0), codes.max(0)))
        slices = supernet.slices(inner)
        received = slicing.take(weights, supernet.slices(outer, nested=True))
        nested = slicing.take(received, supernet.slices(inner, within=outer))
        for name, value in slicing.take(weights, slices).items():
            np.testing.assert_array_equal(nested[name], value)


# ------------------------------------------------------------------- names and shapes


def test_weight_shapes_are_those_of_the_variables_in_their_order(supernet):
    named = supernet.weights_by_name()
    assert list(named) == list(supernet.weight_shapes)
    assert {
        name: tuple(variable.shape) for name, variable in named.items()
    } == supernet.weight_shapes
    ids = [id(variable) for variable in supernet.trainable_weights]
    assert ids == [id(variable) for variable in named.values()]
    assert not supernet.non_trainable_weights


def test_names_are_block_then_layer_then_weight(tiny):
    names = list(tiny.weight_shapes)
    assert names[:4] == ["stem/kernel", "stem_norm/alpha", "stem_norm/beta", "stem_norm/gamma"]
    assert names[4] == "first_0/depthwise/kernel"
    assert names[-2:] == ["head/kernel", "head/bias"]
    assert "second_1/pointwise_norm/gamma" in names


def test_a_shortcut_convolution_is_there_only_where_a_width_can_change(tiny):
    shortcuts = [name for name in tiny.weight_shapes if "/shortcut/" in name]
    assert shortcuts == [f"{stage}_0/shortcut/kernel" for stage in ("first", "second", "third")]
    only = Supernet(TINY.fixed_architecture(Architecture((3, 6, 6), (3, 1, 2), (7, 5, 3))))
    assert [name for name in only.weight_shapes if "/shortcut/" in name] == [
        "second_0/shortcut/kernel"
    ]


@pytest.mark.parametrize("nested", [False, True])
def test_elastic_shapes_know_exactly_the_lengths_that_never_change(supernet, nested):
    space = supernet.space
    rng = np.random.default_rng(4)
    indices = range(space.size) if space.size < 400 else rng.integers(space.size, size=400)
    seen = {}
    for index in indices:
        for name, part in supernet.slices(space.at(index), None, nested).items():
            seen.setdefault(name, []).append(part.size)
    expected = {
        name: tuple(
            lengths[0] if len(set(lengths)) == 1 else None for lengths in zip(*sizes, strict=True)
        )
        for name, sizes in seen.items()
    }
    assert supernet.elastic_shapes(nested) == expected


def test_nested_slices_of_a_block_of_equal_widths_have_the_shortcut_that_narrower_ones_need():
    supernet = Supernet(SPACES["returning"])
    equal = Architecture((4, 4), (1, 1), (3, 3))
    alone, shared = (supernet.slices(equal, None, nested) for nested in (False, True))
    for name, part in shared.items():
        assert part.size == ((1, 1, 4, 4) if "/shortcut/" in name else alone[name].size)
        if "/shortcut/" in name:
            assert alone[name].size == (1, 1, 4, 0)


def test_nested_slices_lack_a_shortcut_that_no_subnet_uses():
    space = digits_small()
    supernet = Supernet(space)
    (name,) = [name for name in supernet.weight_shapes if name.startswith("mb1_0/shortcut")]
    within_smallest = supernet.slices(space.smallest(), nested=True)[name]
    assert within_smallest.size[3] == 0
    assert supernet.slices(space.largest(), nested=True)[name].size[3] > 0
    # In the graph of a client, the architecture is a tensor.
    code = tf.constant(space.encode(space.smallest()))
    assert int(supernet.slices(code, nested=True)[name].size[3]) == 0


def test_elastic_shapes_of_one_architecture_are_all_known():
    subnet = Supernet(TINY.fixed_architecture(TINY.smallest()))
    # Tensors that the net lacks, for example of an absent block, have a length of 0.
    assert subnet.elastic_shapes() == subnet.weight_shapes


@pytest.mark.parametrize(
    ("name", "decays"),
    [
        ("stem/kernel", True),
        ("first_0/depthwise/kernel", True),
        ("first_0/shortcut/kernel", True),
        ("head/kernel", True),
        ("head/bias", False),
        ("stem_norm/alpha", False),
        ("first_0/pointwise_norm/gamma", False),
        ("first_0/depthwise_norm/beta", False),
    ],
)
def test_kernels_alone_decay(tiny, name, decays):
    assert name in tiny.weight_shapes
    assert has_weight_decay(name) == decays


# -------------------------------------------------------------------------- Keras' face


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, second, third = (Supernet(TINY, seed).weights_by_name() for seed in (5, 5, 6))
    for name, variable in first.items():
        np.testing.assert_array_equal(variable, second[name])
        if has_weight_decay(name):
            assert np.abs(variable - third[name]).min() > 0


def test_no_two_kernels_start_with_the_same_values():
    named = Supernet(digits_small(), seed=1).weights_by_name()
    starts = {
        tuple(np.ravel(variable)[:4] / np.abs(variable).max())
        for name, variable in named.items()
        if has_weight_decay(name)
    }
    assert len(starts) == sum(has_weight_decay(name) for name in named)


def test_residual_branches_start_silent():
    named = Supernet(TINY).weights_by_name()
    for name, variable in named.items():
        if name.endswith("gamma"):
            assert set(variable.numpy()) == {0.0 if "/pointwise_norm/" in name else 1.0}


def test_a_config_makes_the_same_supernet():
    supernet = Supernet(SPACES["group"], seed=3, name="mine")
    config = supernet.get_config()
    again = Supernet.from_config(config)
    assert (again.space, again.seed, again.name) == (supernet.space, 3, "mine")
    assert again.get_config() == config
    for name, variable in supernet.weights_by_name().items():
        np.testing.assert_array_equal(again.weights_by_name()[name], variable)


def test_building_twice_keeps_the_variables():
    supernet = Supernet(TINY)
    first = list(supernet.weights_by_name().values())
    supernet.build((None, *TINY.image_shape))
    assert all(a is b for a, b in zip(first, supernet.weights, strict=True))


@pytest.mark.slow
def test_keras_fits_the_supernet():
    space = SPACES["returning"]
    supernet = Supernet(space)
    supernet.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = random_images(space, batch=6)
    labels = np.array([0, 1] * 3)
    losses = supernet.fit(images, labels, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_assigned_weights_are_read_back(tiny):
    other = Supernet(TINY)
    weights = {name: variable.numpy() for name, variable in tiny.weights_by_name().items()}
    other.assign_weights(weights)
    images = random_images(TINY)
    np.testing.assert_array_equal(other(images), tiny(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head/bias"), "missing are \\['head/bias'\\], unknown are \\[\\]"),
        (lambda w: w.update(extra=np.zeros(1)), "missing are \\[\\], unknown are \\['extra'\\]"),
        (
            lambda w: w.update({"head/kernel": np.zeros((3, 8))}),
            "'head/kernel' of shape \\(8, 3\\), received \\(3, 8\\)",
        ),
        (
            lambda w: w.update({"stem_norm/beta": np.zeros((3, 1))}),
            "'stem_norm/beta' of shape \\(3,\\), received \\(3, 1\\)",
        ),
    ],
)
def test_weights_of_another_name_or_shape_are_an_error_and_assign_nothing(change, message):
    supernet = Supernet(TINY)
    before = {name: variable.numpy() for name, variable in supernet.weights_by_name().items()}
    weights = {name: value + 1 for name, value in before.items()}
    change(weights)
    with pytest.raises(ValueError, match=message):
        supernet.assign_weights(weights)
    for name, variable in supernet.weights_by_name().items():
        np.testing.assert_array_equal(variable, before[name])


def test_a_block_that_may_be_absent_returns_its_inputs_where_it_is():
    block = ElasticBlock(Stage("s", (4,), (1, 2), (3,)), 1, (4,), "parametric", 0)
    block.build(None)
    none = block.slices(4, 4, 3, present=0, within_kernel=3, nested=False)
    weights = {
        f"{layer.name}/{name}": value
        for layer in block.sublayers()
        for name, value in layer.own_weights().items()
    }
    inputs = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype(np.float32)
    absent = slicing.take(weights, none)
    np.testing.assert_array_equal(block.forward(absent, tf.constant(inputs))[0], inputs)


def test_a_supernet_of_one_architecture_knows_it(tiny):
    for architecture in (TINY.smallest(), TINY.largest()):
        assert tiny.extract(architecture).architecture == architecture
    with pytest.raises(ValueError, match=r"single architecture, .* 'tiny' has \d+"):
        _ = tiny.architecture


def test_values_in_the_order_of_the_variables_get_their_names(tiny):
    values = tuple(tiny.values_by_name().values())
    named = tiny.named(values)
    assert list(named) == list(tiny.weight_shapes)
    for name, value in tiny.values_by_name().items():
        np.testing.assert_array_equal(named[name], value)
    with pytest.raises(ValueError, match=rf"Expected {len(values)} values, .* received 1\."):
        tiny.named(values[:1])
