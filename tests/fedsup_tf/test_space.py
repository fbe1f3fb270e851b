"""Tests of architectures, search spaces, presets and costs."""

import dataclasses
import json
import math

import numpy as np
import pytest

from fedsup_tf.architecture import Architecture
from fedsup_tf.presets import digits_small, fedsup_cifar, load_space
from fedsup_tf.search import costs
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage

FIELDS = dict(
    name="tiny",
    image_shape=(5, 4, 2),
    classes=3,
    stem_width=4,
    stem_stride=1,
    stages=(
        Stage("first", (2, 4), (1,), (1, 3)),
        Stage("second", (4, 6, 8), (1, 2), (3, 5), 2),
    ),
)
TINY = SearchSpace(**FIELDS)
MIDDLE = Architecture((4, 6), (1, 2), (1, 5))
# Not in TINY: each has one wrong entry, in the stage named.
OUTSIDE = {
    "second": Architecture((2, 5), (1, 1), (1, 3)),
    "first": Architecture((2, 4), (2, 1), (1, 3)),
}


def everything(space):
    return [space.at(index) for index in range(space.size)]


# -------------------------------------------------------------------- presets and costs


def test_the_presets_hold_as_many_architectures_as_documented():
    assert fedsup_cifar().size == 10_368
    assert digits_small().size == 384


@pytest.mark.parametrize(
    ("classes", "which", "parameters"),
    [
        (10, "largest", 1_858_826),
        (10, "smallest", 163_946),
        (100, "largest", 1_951_076),
        (100, "smallest", 210_116),
    ],
)
def test_parameters_of_the_cifar_space(classes, which, parameters):
    space = fedsup_cifar(classes)
    assert costs.count_parameters(space, getattr(space, which)()) == parameters


@pytest.mark.parametrize(("which", "macs"), [("largest", 13_413_376), ("smallest", 1_689_088)])
def test_macs_of_the_cifar_space(which, macs):
    space = fedsup_cifar(classes=100)
    assert costs.count_macs(space, getattr(space, which)()) == macs


def test_costs_of_a_net_counted_by_hand():
    # Maps are 5 x 4, 5 x 4 and 3 x 2. Stem; first stage; two blocks of the second; classifier.
    kernels = (9 * 2 * 4, 4 + 16, 25 * 4 + 4 * 6 + 4 * 6, 25 * 6 + 6 * 6, 6 * 3)
    norms = 3 * (4 + (4 + 4) + (4 + 6) + (6 + 6))
    assert costs.count_parameters(TINY, MIDDLE) == sum(kernels) + norms + 3
    pixels = (20, 20, 6, 6, 1)
    assert costs.count_macs(TINY, MIDDLE) == np.dot(kernels, pixels)


def test_group_normalization_has_two_vectors_where_parametric_has_three():
    parametric = digits_small()
    group = digits_small(normalization="group")
    smallest = parametric.smallest()
    # Normalized channels: the stem's, and those before and after each of three pointwise layers.
    channels = 16 + (16 + 16) + (16 + 32) + (32 + 64)
    difference = costs.count_parameters(parametric, smallest) - costs.count_parameters(
        group, smallest
    )
    assert difference == channels
    assert costs.count_macs(parametric, smallest) == costs.count_macs(group, smallest)


def test_cost_of_an_architecture_outside_the_space_is_an_error():
    with pytest.raises(ValueError, match="second"):
        costs.architecture_cost(TINY, OUTSIDE["second"])


@pytest.mark.parametrize(("stages", "size"), [(0, (16, 16)), (1, (16, 16)), (4, (2, 2))])
def test_map_size_halves_at_every_stride(stages, size):
    assert costs.map_size(fedsup_cifar(), stages) == size


def test_map_size_rounds_up():
    assert costs.map_size(TINY, 2) == (3, 2)


# ----------------------------------------------------------------------------- JSON


def test_an_architecture_survives_json():
    assert Architecture.from_json(MIDDLE.to_json()) == MIDDLE


@pytest.mark.parametrize(
    "space", [fedsup_cifar(100), digits_small(normalization="group"), TINY], ids=lambda s: s.name
)
def test_a_space_survives_json(space):
    read = SearchSpace.from_json(space.to_json())
    assert read == space
    assert hash(read) == hash(space)


def test_a_space_written_by_hand_may_leave_out_what_has_defaults():
    fields = json.loads(TINY.to_json())
    del fields["normalization"], fields["stages"][0]["stride"]
    assert SearchSpace.from_json(json.dumps(fields)) == TINY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "An architecture: expected JSON"),
        ("", "An architecture: expected JSON"),
        ("[1]", "JSON object, received list"),
        ("{}", "missing are \\['depths', 'kernels', 'widths'\\]"),
        ('{"widths": [1], "depths": [1], "kernels": [3], "x": 1}', "unknown are \\['x'\\]"),
        ('{"widths": 1, "depths": [1], "kernels": [3]}', "widths: expected a list of whole"),
        ('{"widths": [1], "depths": [1.5], "kernels": [3]}', "depths: expected a list of whole"),
        ('{"widths": [1], "depths": [1], "kernels": ["3"]}', "kernels: expected a list of whole"),
        ('{"widths": [1], "depths": [true], "kernels": [3]}', "depths: expected a list of whole"),
        ('{"widths": [], "depths": [], "kernels": []}', "widths: expected a list of whole"),
        ('{"widths": [1, 2], "depths": [1], "kernels": [3]}', "one width, one depth and one"),
    ],
)
def test_bad_json_of_an_architecture_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 3}, "unknown are \\['size'\\]. Add what is missing, and take out"),
        ({"stages": None}, "expected stages to be a list"),
        ({"stages": [3]}, "Stage number 1 of a search space.*missing are"),
        ({"stages": [{"name": "a", "widths": [1], "depths": [1]}]}, "missing are \\['kernels'\\]"),
        ({"image_shape": 5}, "image_shape: expected a list of whole numbers"),
        ({"classes": "ten"}, "classes to be a whole number"),
    ],
)
def test_bad_json_of_a_space_is_an_error(changes, message):
    text = json.dumps({**json.loads(TINY.to_json()), **changes})
    with pytest.raises(ValueError, match=message):
        SearchSpace.from_json(text)


def test_a_field_that_a_later_one_would_override_is_refused():
    text = f'{TINY.to_json()[:-1]}, "classes": 5}}'
    with pytest.raises(ValueError, match="with an error: the field 'classes' twice in one object"):
        SearchSpace.from_json(text)


@pytest.mark.parametrize("text", ["{", "null", "3"])
def test_text_that_is_no_space_is_an_error(text):
    with pytest.raises(ValueError, match="A search space: expected"):
        SearchSpace.from_json(text)


def test_json_without_a_field_of_a_space_is_an_error():
    fields = json.loads(TINY.to_json())
    del fields["classes"]
    with pytest.raises(ValueError, match="missing are \\['classes'\\]"):
        SearchSpace.from_json(json.dumps(fields))


# ----------------------------------------------------------------------- load_space


def test_load_space_by_name_with_changes():
    assert load_space("fedsup_cifar", classes=100) == fedsup_cifar(100)
    assert load_space("digits_small", image_shape=(16, 16, 1)).image_shape == (16, 16, 1)


def test_a_space_from_a_file_keeps_what_it_says(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(TINY.to_json())
    assert load_space(str(path)) == TINY
    own = {name: getattr(TINY, name) for name in ("classes", "image_shape", "normalization")}
    assert load_space(str(path), **own) == TINY
    assert load_space(str(path), classes=None, normalization=None) == TINY
    for changes in ({"classes": 7}, {"image_shape": (32, 32, 3)}, {"normalization": "group"}):
        ((name, value),) = changes.items()
        with pytest.raises(ValueError, match=rf"space\.json.*: expected {name} ") as error:
            load_space(str(path), **changes)
        assert repr(value) in str(error.value)
        assert repr(own[name]) in str(error.value)


def test_what_a_space_from_a_file_leaves_out_may_be_wanted(tmp_path):
    path = tmp_path / "space.json"
    fields = json.loads(TINY.to_json())
    del fields["normalization"], fields["classes"]
    path.write_text(json.dumps(fields))
    found = load_space(str(path), normalization="parametric", classes=7)
    assert found == dataclasses.replace(TINY, classes=7)


def test_load_space_of_neither_name_nor_file_is_an_error(tmp_path):
    for neither in ("no_such_space", str(tmp_path)):
        with pytest.raises(ValueError, match=r"fedsup_cifar, digits_small.*neither"):
            load_space(neither)


def test_load_space_of_a_file_with_something_else_is_an_error(tmp_path):
    path = tmp_path / "space.json"
    path.write_text("widths: 3")
    with pytest.raises(ValueError, match="A search space: expected JSON"):
        load_space(str(path))


# --------------------------------------------------------------------- constructors


def test_an_architecture_takes_numpy_integers_and_is_hashable():
    code = TINY.encode(MIDDLE)
    same = Architecture(code[:2], code[2:4], code[4:])
    assert {same: "found"}[MIDDLE] == "found"
    assert type(same.widths[0]) is int


def test_an_architecture_reads_as_one_short_line():
    assert str(MIDDLE) == "4x1k1 6x2k5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(widths=(4, 2)), "widths to be rising"),
        (dict(widths=(4, 4)), "widths to be rising"),
        (dict(widths=(0, 4)), "widths to be rising positive"),
        (dict(widths=()), "widths: expected a list of whole numbers"),
        (dict(widths=4), "widths: expected a list of whole numbers"),
        (dict(widths=(4.0,)), "widths: expected a list of whole numbers"),
        (dict(depths=(0, 1)), "depths to be rising positive"),
        (dict(depths="12"), "depths: expected a list of whole numbers"),
        (dict(kernels=(3, 4)), "odd kernels"),
        (dict(kernels=(-1, 3)), "kernels to be rising positive"),
        (dict(kernels=None), "kernels: expected a list of whole numbers"),
        (dict(stride=3), "stride to be one of 1, 2"),
        (dict(stride=0), "stride to be one of 1, 2"),
    ],
)
def test_a_bad_stage_is_an_error_that_names_it(arguments, message):
    good = dict(name="mb9", widths=(2, 4), depths=(1,), kernels=(3,))
    with pytest.raises(ValueError, match=f"Stage 'mb9': .*{message}"):
        Stage(**{**good, **arguments})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(image_shape=(5, 4)), "expected image_shape"),
        (dict(image_shape=(5, 0, 1)), "expected image_shape"),
        (dict(image_shape=(5, 4.5, 1)), "image_shape: expected a list of whole numbers"),
        (dict(classes=1), "classes to be a whole number from 2"),
        (dict(classes=10.0), "classes to be a whole number from 2"),
        (dict(stem_width=0), "stem_width to be a whole number from 1"),
        (dict(stem_stride=3), "stem_stride to be one of 1, 2, received 3"),
        (dict(stages=()), "stages with names of their own"),
        (dict(stages=(FIELDS["stages"][0],) * 2), "stages with names of their own"),
        (dict(normalization="batch"), "one of parametric, group, received 'batch'"),
        (dict(normalization="group"), "multiples of 8, got \\[2, 4, 6\\]"),
    ],
)
def test_a_bad_space_is_an_error_that_names_it(changes, message):
    with pytest.raises(ValueError, match=f"Search space 'tiny': .*{message}"):
        SearchSpace(**{**FIELDS, **changes})


def test_a_space_too_large_to_number_is_an_error():
    stages = tuple(Stage(f"s{n}", (1, 2), (1, 2), (1, 3)) for n in range(11))
    with pytest.raises(ValueError, match="it holds 8,589,934,592 architectures"):
        SearchSpace(**{**FIELDS, "stages": stages})
    largest = (*stages[:10], Stage("last", (1, 2), (1,), (3,)))
    assert SearchSpace(**{**FIELDS, "stages": largest}).size == 2**31


# -------------------------------------------------------------------- one architecture


def test_choices_and_size():
    assert TINY.choices == ((2, 4), (4, 6, 8), (1,), (1, 2), (1, 3), (3, 5))
    assert TINY.size == math.prod((2, 3, 1, 2, 2, 2))


def test_smallest_and_largest():
    assert TINY.smallest() == Architecture((2, 4), (1, 1), (1, 3))
    assert TINY.largest() == Architecture((4, 8), (1, 2), (3, 5))


def test_the_space_of_one_architecture_holds_it_alone():
    only = TINY.fixed_architecture(MIDDLE)
    assert only.size == 1
    assert only.smallest() == only.largest() == MIDDLE
    assert (only.name, only.classes, only.stages[1].stride) == ("tiny", 3, 2)


def test_every_architecture_of_the_space_passes_the_check():
    for architecture in everything(TINY):
        TINY.check(architecture)


@pytest.mark.parametrize("method", ["check", "encode", "index", "fixed_architecture"])
@pytest.mark.parametrize("stage", OUTSIDE)
def test_an_architecture_outside_is_an_error_that_names_the_stage(method, stage):
    with pytest.raises(ValueError, match=f"Stage '{stage}' of search space 'tiny' allows"):
        getattr(TINY, method)(OUTSIDE[stage])


def test_an_architecture_of_another_number_of_stages_is_an_error():
    with pytest.raises(ValueError, match="'tiny' has 2 stages, the architecture has 1"):
        TINY.check(Architecture((2,), (1,), (1,)))


# ---------------------------------------------------------------------------- encoding


def test_encode_writes_widths_then_depths_then_kernels():
    code = TINY.encode(MIDDLE)
    assert code.dtype == np.int32
    assert code.tolist() == [4, 6, 1, 2, 1, 5]


def test_decode_is_the_inverse_of_encode():
    assert all(TINY.decode(TINY.encode(a)) == a for a in everything(TINY))


def test_index_is_the_inverse_of_at_and_counts_from_smallest_to_largest():
    architectures = everything(TINY)
    assert [TINY.index(architecture) for architecture in architectures] == list(range(TINY.size))
    assert len(set(architectures)) == TINY.size
    assert architectures[0] == TINY.smallest()
    assert architectures[-1] == TINY.largest()


@pytest.mark.parametrize("code", [[4, 6, 1, 2, 1], [4, 6, 1, 2, 1, 5, 5], []])
def test_a_code_of_another_length_is_an_error(code):
    with pytest.raises(ValueError, match=f"a code of 6 numbers, received {len(code)}"):
        TINY.decode(code)


def test_a_code_outside_the_space_is_an_error_that_names_the_stage():
    with pytest.raises(ValueError, match=r"Stage 'second'.*allows kernels \[3, 5\].*asks for 7"):
        TINY.decode([4, 6, 1, 2, 1, 7])


@pytest.mark.parametrize("index", [-1, TINY.size])
def test_an_index_outside_the_space_is_an_error(index):
    with pytest.raises(ValueError, match=f"0 to {TINY.size - 1}, received {index}"):
        TINY.at(index)


# ---------------------------------------------------------------------------- sampling


def test_samples_are_uniform_over_the_space():
    rng = np.random.default_rng(0)
    draws = 200 * TINY.size
    counts = np.bincount([TINY.index(TINY.sample(rng)) for _ in range(draws)], minlength=TINY.size)
    # Chi-square with 47 degrees of freedom exceeds 90 for one in 6,000 seeds.
    assert np.sum((counts - 200) ** 2 / 200) < 90


def test_a_sample_is_that_of_its_seed():
    first, second = (
        [TINY.sample(np.random.default_rng(seed)) for seed in range(10)] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) > 1


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_a_mutant_lies_inside_and_differs(probability):
    rng = np.random.default_rng(1)
    for _ in range(50):
        parent = TINY.sample(rng)
        mutant = TINY.mutate(parent, rng, probability)
        TINY.check(mutant)
        assert mutant != parent


def test_each_free_entry_of_a_mutant_changes_with_the_probability():
    space = fedsup_cifar()
    rng = np.random.default_rng(2)
    parent = space.sample(rng)
    mutants = np.array([space.encode(space.mutate(parent, rng, 0.5)) for _ in range(500)])
    changed = (mutants != space.encode(parent)).mean(0)
    free = [len(values) > 1 for values in space.choices]
    # Each of 11 free entries is a coin thrown 500 times; 0.1 is over 4 standard deviations.
    np.testing.assert_allclose(changed, np.where(free, 0.5, 0), atol=0.1)


def test_a_mutation_of_certainty_changes_every_free_entry_and_of_zero_just_one():
    rng = np.random.default_rng(3)
    code = TINY.encode(MIDDLE)
    changed = {
        probability: np.sum(TINY.encode(TINY.mutate(MIDDLE, rng, probability)) != code)
        for probability in (0.0, 1.0)
    }
    assert changed == {0.0: 1, 1.0: 5}


def test_a_mutant_reaches_every_value():
    rng = np.random.default_rng(4)
    codes = np.array([TINY.encode(TINY.mutate(MIDDLE, rng, 1.0)) for _ in range(100)])
    assert set(codes[:, 1]) == {4, 8}


def test_the_only_architecture_of_a_space_mutates_to_itself():
    rng = np.random.default_rng(0)
    assert TINY.fixed_architecture(MIDDLE).mutate(MIDDLE, rng, 1.0) == MIDDLE


def test_a_child_takes_every_entry_from_either_parent():
    rng = np.random.default_rng(5)
    first, second = TINY.smallest(), TINY.largest()
    children = {TINY.crossover(first, second, rng) for _ in range(500)}
    # Five entries differ between the parents; neither has the middle width.
    assert len(children) == 2**5
    assert {child.widths[1] for child in children} == {4, 8}


def test_parents_outside_the_space_are_an_error():
    with pytest.raises(ValueError, match="Stage 'second'"):
        TINY.crossover(MIDDLE, OUTSIDE["second"], np.random.default_rng(0))


@pytest.mark.parametrize(
    "changes", [{"stride": 2.0}, {"stride": True}, {"name": 5}, {"name": "a/b"}, {"name": ""}]
)
def test_a_stage_of_the_wrong_kind_is_refused(changes):
    with pytest.raises(ValueError, match=r"expected|text"):
        Stage(**{"name": "a", "widths": (1,), "depths": (1,), "kernels": (3,), **changes})


def test_a_fractional_architecture_is_refused():
    with pytest.raises(TypeError):
        Architecture((1.7,), (1,), (3,))
