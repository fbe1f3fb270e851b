"""Tests of latency tables: computation of parts, contents of the table, resuming after a kill."""

import json
import math
import time
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf.calibration import fold, mean_square_shapes
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.search.cost_parts import Part, parts_of, parts_of_space
from fedsup_tf.search.latency import Latency, LatencyTable
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tff_programs.programs import profile as program
from tff_programs.programs.flags.program_flags import parse_flags
from tflite.export.conversion import convert
from tflite.profiling.part_models import ENTRY, Conditions, ModelConverter
from tflite.profiling.part_module import NOTHING, PartModel
from tflite.profiling.profile import Profile, Profiler, fit_table, relative_errors
from tflite.profiling.timing import min_milliseconds, prepare_calls

STAGES = (Stage("a", (8, 16), (1,), (3,), 1), Stage("b", (16,), (1, 2), (3, 5), 2))
SPACE = SearchSpace("some", (8, 8, 1), 4, 8, 1, STAGES)
PREPROCESSING = Preprocessing((100.0,), (60.0,))
RANDOM = np.random.default_rng(0)
KINDS = ("infer", "train")


def make_supernet():
    """Returns a supernet without zero residual branches."""
    supernet = Supernet(SPACE, seed=1)
    values = {name: value.numpy() for name, value in supernet.weights_by_name().items()}
    ones = {name: np.ones_like(v) for name, v in values.items() if name.endswith("/gamma")}
    supernet.assign_weights({**values, **ones})
    return supernet


def make_part(part):
    return PartModel(make_supernet(), part, PREPROCESSING, LocalTraining(weight_decay=0.0))


def largest_parts():
    return parts_of(SPACE, SPACE.largest())


@pytest.mark.slow
def test_parts_have_the_weights_of_the_subnet_each_once():
    subnet = make_supernet().extract(SPACE.largest())
    names = [name for part in largest_parts() for name in make_part(part).shapes]
    expected = [*subnet.weight_shapes, *mean_square_shapes(subnet.weight_shapes)]
    assert sorted(names) == sorted(expected)
    assert not make_part(NOTHING).shapes


@pytest.mark.slow
def test_parts_after_each_other_infer_as_the_subnet():
    subnet = make_supernet().extract(SPACE.largest())
    weights = {name: value.read_value() for name, value in subnet.weights_by_name().items()}
    ones = {n: tf.ones(shape) for n, shape in mean_square_shapes(subnet.weight_shapes).items()}
    images = RANDOM.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    expected = subnet.forward(fold(weights, ones), PREPROCESSING.normalize(images))
    maps = tf.constant(images)
    for part in largest_parts():
        model = make_part(part)
        assert model.infer(3).inputs[0].shape == maps.shape
        maps, _ = model.compute(fold(*model.unpack(model.read())), maps, None)
    np.testing.assert_allclose(maps, expected, atol=1e-5)


@pytest.mark.slow
def test_a_part_of_a_step_moves_its_weights_as_the_gradient_says():
    part = Part.of_stage(1, 16, 16, 2, 5)
    model = make_part(part)
    before, _ = model.unpack(model.read())
    train = model.train(4)
    maps, upstream = (
        tf.constant(RANDOM.normal(size=spec.shape), tf.float32)
        for spec in train.structured_input_signature[0][:2]
    )
    with tf.GradientTape() as tape:
        tape.watch(before)
        outputs, _ = model.compute(before, maps, None)
    expected = tape.gradient(outputs, before, output_gradients=upstream)
    train(maps, upstream, tf.ones(4), tf.constant(0.5))
    after, _ = model.unpack(model.read())
    for name, value in after.items():
        moved = before[name] - 0.5 * np.clip(expected[name], -1, 1)
        np.testing.assert_allclose(value, moved, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_converted_parts_of_every_kind_run():
    module, functions = tf.Module(), {}
    parts = [NOTHING, *largest_parts()]
    module.parts = [make_part(part) for part in parts]
    for number, model in enumerate(module.parts):
        functions[f"infer_{number}"] = model.infer(1)
        functions[f"train_{number}"] = model.train(2)
    calls = prepare_calls(convert(module, functions), functions, threads=1)
    results = {name: call()["result"] for name, call in calls.items()}
    assert {value.shape for value in results.values()} == {(1,)}
    assert all(np.isfinite(value).all() for value in results.values())


def test_calls_take_turns_and_the_shortest_counts(monkeypatch):
    # The first turn is not counted.
    order, seconds, now = [], iter([0, 0, 9, 1, 2, 9]), [0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call(name):
        order.append(name)
        now[0] += next(seconds)

    calls = {name: lambda name=name: call(name) for name in ("first", "second")}
    taken = min_milliseconds(calls, repetitions=2, threads=2)
    assert order == ["first", "second"] * 3
    assert taken == {"first": 2000, "second": 1000}


def test_on_one_thread_waiting_for_the_processor_does_not_count():
    calls = {"asleep": lambda: time.sleep(0.02)}
    assert min_milliseconds(calls, repetitions=1, threads=1)["asleep"] < 10


# ------------------------------------------------------------------- the table

ARCHITECTURES = [SPACE.at(index) for index in range(SPACE.size)]


def make_profile(infer_scale=1.0, train_scale=1.0):
    """Part i takes i / 10 and i ms, a call 0.5 and 5 ms; subnets take multiples of the sums."""
    profile = Profile(SPACE, Conditions(train_batch_size=8))
    for number, part in enumerate(parts_of_space(SPACE)):
        profile.parts[part] = Latency(number / 10, float(number))
    # The median ignores the outlier.
    profile.calls = [Latency(0.5, 5.0), Latency(0.5, 5.0), Latency(9.0, 90.0)]
    for architecture in ARCHITECTURES:
        parts = [profile.parts[part] for part in parts_of(SPACE, architecture)]
        infer, train = (sum(column) for column in zip(*parts, strict=True))
        profile.subnets[architecture] = Latency(
            infer_scale * (infer + 0.5), train_scale * (train + 5)
        )
    return profile


def test_a_call_is_counted_once_with_the_stem():
    profile = make_profile()
    table = fit_table(profile, [], ARCHITECTURES, "here")
    for architecture in ARCHITECTURES:
        assert table.latency(architecture) == pytest.approx(profile.subnets[architecture])
    assert table.rows[Part.of_stem()] == pytest.approx(Latency(0.5, 5.0))
    assert table.infer.largest_error == pytest.approx(0, abs=1e-9)
    assert (table.infer.batch_size, table.train.batch_size) == (1, 8)
    assert "times" not in table.machine


def test_one_factor_a_kind_makes_up_for_what_is_systematic():
    profile = make_profile(1.25, 0.8)
    table = fit_table(profile, ARCHITECTURES[:2], ARCHITECTURES[2:], "here")
    for architecture in ARCHITECTURES[2:]:
        assert table.latency(architecture) == pytest.approx(profile.subnets[architecture])
    assert "1.250 (infer) and 0.800 (train), fitted on 2 subnets" in table.machine


def test_errors_are_those_of_the_subnets_that_nothing_was_fitted_on():
    profile = make_profile()
    fitted, checked = ARCHITECTURES[:2], ARCHITECTURES[2:5]
    for architecture, share in zip(checked, (1.25, 2.0, 0.8), strict=True):
        true = profile.subnets[architecture]
        profile.subnets[architecture] = Latency(true.infer_ms * share, true.train_ms)
    table = fit_table(profile, fitted, checked, "here")
    errors = relative_errors(table, profile.subnets, checked, "infer_ms")
    assert errors == pytest.approx([-0.2, -0.5, 0.25])
    assert table.infer.median_error == pytest.approx(0.25)
    assert table.infer.largest_error == pytest.approx(0.5)
    assert (table.infer.subnets, table.train.subnets) == (3, 3)
    assert table.train.largest_error == pytest.approx(0, abs=1e-9)


# --------------------------------------------------------------- interruptions


def test_a_profile_goes_on_where_it_stood(tmp_path):
    profile, other = make_profile(), Profile(SPACE, Conditions(train_batch_size=8))
    profile.loads = [0.5, 1.5]
    profile.save(tmp_path / "partial")
    other.load(tmp_path / "partial")
    assert other == profile


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "interrupted"),
        ('{"space": 1}', "interrupted"),
        (None, "Give the same flags to go on, or remove"),
    ],
)
def test_measurements_of_something_else_are_refused(tmp_path, text, told):
    path = tmp_path / "partial"
    if text is None:
        Profile(SPACE, Conditions(threads=2)).save(path)
    else:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told) as caught:
        Profile(SPACE, Conditions()).load(path)
    assert str(path) in str(caught.value)


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again():
    profile, told = make_profile(), []
    left = [Part.of_stem(), Part.of_head(16)]
    for part in left:
        del profile.parts[part]
    kept = dict(profile.parts)
    converter = ModelConverter(make_supernet(), PREPROCESSING, LocalTraining(), profile.conditions)
    profiler = Profiler(profile, converter, told.append)
    profiler.measure_parts()
    profiler.measure_subnets(ARCHITECTURES)
    assert told == [left]
    assert kept.items() <= profile.parts.items()
    assert all(value >= 0 for part in left for value in profile.parts[part])
    assert len(profile.calls) == 4


@pytest.mark.slow
def test_the_program_writes_a_table_for_the_search(tmp_path, capsys):
    space = SearchSpace("one", (8, 8, 1), 4, 8, 1, (Stage("a", (8, 16), (1,), (3,), 2),))
    (tmp_path / "space.json").write_text(space.to_json(), encoding="utf-8")
    out = tmp_path / "table.json"
    values = dict(space=tmp_path / "space.json", out=out, repetitions=2)
    values |= dict(check_subnets=0, fit_subnets=0, train_batch_size=2)
    program.main(["profile", *(f"--{name}={value}" for name, value in values.items())])
    table = LatencyTable.load(out)
    assert table.space == space
    assert (table.train.batch_size, table.train.subnets) == (2, 2)
    smallest, largest = (table.latency(a) for a in (space.smallest(), space.largest()))
    assert all(math.isfinite(value) and value > 0 for value in (*smallest, *largest))
    shown = capsys.readouterr().out
    assert "part 5/5" in shown
    assert "subnet 2/2" in shown
    assert f"median error {100 * table.infer.median_error:.1f} %" in shown
    assert [path.name for path in tmp_path.glob("*.partial")] == []
    assert json.loads(out.read_text())["rows"][0]["kind"] == "stem"


@pytest.mark.slow
def test_the_program_writes_the_models_for_a_phone(tmp_path, capsys):
    space = SearchSpace("one", (8, 8, 1), 4, 8, 1, (Stage("a", (8, 16), (1,), (3, 5), 2),))
    (tmp_path / "space.json").write_text(space.to_json(), encoding="utf-8")
    values = dict(space=tmp_path / "space.json", parts=tmp_path / "parts.zip", repetitions=2)
    values |= dict(check_subnets=0, fit_subnets=1, train_batch_size=2)
    program.main(["profile", *(f"--{name}={value}" for name, value in values.items())])
    assert "parts_1.tflite: " in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "parts.zip") as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        fields = json.loads(archive.read(ENTRY))
        models = {name: archive.read(name) for name in archive.namelist() if name != ENTRY}
    assert SearchSpace.from_fields(fields["space"]) == space
    assert (fields["train_batch_size"], fields["infer_batch_size"]) == (2, 1)
    rows = [row for group in fields["groups"] for row in group["rows"]]
    parts = parts_of_space(space)
    assert [(row["kind"], row.get("in_width", 0)) for row in rows] == [
        (part.kind, part.in_width) for part in parts
    ]
    assert [subnet["fitted"] for subnet in fields["subnets"]] == [True, False, False]
    expected = [
        sorted(map(parts.index, parts_of(space, a))) for a in (space.smallest(), space.largest())
    ]
    assert [sorted(subnet["rows"]) for subnet in fields["subnets"][1:]] == expected
    for group in fields["groups"]:
        names = [f"{kind}_{number}" for number in range(len(group["rows"]) + 1) for kind in KINDS]
        calls = prepare_calls(models[group["entry"]], names, threads=1)
        assert all(np.isfinite(call()["result"]).all() for call in calls.values())
    for subnet in fields["subnets"]:
        assert prepare_calls(models[subnet["entry"]], KINDS, threads=1)["train"]()["loss"] > 0


def test_a_supernet_without_preprocessing_is_measured_with_any(tmp_path):
    path = tmp_path / "bare.safetensors"
    make_supernet().save_checkpoint(path)
    options, _ = parse_flags(program.define_flags, ["profile", f"--supernet={path}"])
    supernet, preprocessing, _ = program.subject_from_flags(options)
    assert supernet.space == SPACE
    assert len(preprocessing.mean) == SPACE.image_shape[2]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (dict(space="digits_small"), "--out"),
        (dict(space="digits_small", out="x.json", parts="x.zip"), "one of --out=FILE.json"),
        (dict(out="x.json"), "one of --space and --supernet"),
        (dict(out="x.json", space="digits_small", supernet="y"), "one of --space and --supernet"),
    ],
)
def test_flags_that_say_nothing_to_measure_are_refused(given, told):
    with pytest.raises(ValueError, match=told):
        program.main(["profile", *(f"--{name}={value}" for name, value in given.items())])
