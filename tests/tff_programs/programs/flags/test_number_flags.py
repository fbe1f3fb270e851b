"""Tests of number flags: in bounds, never NaN, infinite only where a flag allows it."""

import importlib
import os

import pytest
from absl import flags

from fedsup_tf.local_training import LocalTraining
from tff_programs.aggregators.privacy import PrivacyAccount
from tff_programs.learning.schedule import build_schedule
from tff_programs.programs.cli import PROGRAMS
from tff_programs.programs.flags.aggregation_flags import define_aggregation_flags
from tff_programs.programs.flags.execution_flags import define_execution_flags
from tff_programs.programs.flags.number_flags import FiniteFloatParser
from tff_programs.programs.flags.program_flags import ProgramFlags
from tff_programs.programs.flags.train_flags import define_train_flags
from tff_programs.simulation.round_clock import SimulatedTime


def number_flags():
    """Returns the number flags of all programs."""
    for program in PROGRAMS:
        module = importlib.import_module(f"tff_programs.programs.{program}")
        define = getattr(module, "define_flags", None)
        if define is not None:
            options = ProgramFlags(define)
            for name in options:
                if options[name].parser.flag_type() in ("float", "int"):
                    yield program, define, name


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "x", "", "True"])
def test_no_number_flag_takes_what_is_no_number(value):
    tried = taken = 0
    for program, define, name in number_flags():
        tried += 1
        # Only in training; for a gateway, the noise is relative to this bound.
        is_limit = program in ("train", "demo") and name in ("clip_norm", "clip_value")
        if is_limit and value in ("inf", "1e999"):
            taken += 1
            continue
        with pytest.raises(flags.Error, match=name):
            ProgramFlags(define).parse([program, f"--{name}={value}"])
    assert tried > 40
    assert taken <= 4


@pytest.mark.parametrize("value", ["1e39", "-1e39", "1e-39", str(10**100), str(-(10**100))])
def test_no_number_flag_takes_what_no_tensor_can_hold(value):
    for program, define, name in number_flags():
        with pytest.raises(flags.Error, match=name):
            ProgramFlags(define).parse([program, f"--{name}={value}"])


@pytest.mark.parametrize(
    ("define", "name", "values"),
    [
        (define_train_flags, "learning_rate", ["0", "-1"]),
        (define_train_flags, "server_learning_rate", ["0", "-1"]),
        (define_execution_flags, "clients_at_once", ["-1", "1000000"]),
        (define_train_flags, "momentum", ["-0.1", "1.1"]),
        (define_train_flags, "sandwich", ["0", "65"]),
        (define_train_flags, "epochs", ["0", "2147483648"]),
        (define_train_flags, "weight_decay", ["-1"]),
        (define_train_flags, "clip_value", ["0", "-1"]),
        (define_train_flags, "label_smoothing", ["1.5"]),
        (define_train_flags, "temperature", ["0"]),
        (define_train_flags, "averaging", ["1", "-0.1"]),
        (define_train_flags, "availability", ["0", "1.1"]),
        (define_aggregation_flags, "noise_multiplier", ["1e308", "-1"]),
        (define_aggregation_flags, "max_epsilon", ["0", "-1"]),
        (define_aggregation_flags, "delta", ["0", "1"]),
        (define_aggregation_flags, "poisoned", ["0.5", "-0.1"]),
    ],
)
def test_numbers_out_of_bounds_are_refused_with_the_bounds(define, name, values):
    for value in values:
        with pytest.raises(flags.Error, match=name):
            ProgramFlags(define).parse(["train", f"--{name}={value}"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_flag_file_may_have_a_byte_order_mark(tmp_path, encoding):
    path, inner = tmp_path / "a.flags", tmp_path / "b.flags"
    path.write_text(f"# A comment.\r\n--rounds=7\n\n--flagfile={inner}\n", encoding)
    inner.write_text("--epochs=3\n// Another.\n--rounds=8\n", encoding)
    options = ProgramFlags(define_train_flags)
    options.parse(["train", f"--flagfile={path}", "--epochs=4"])
    assert (options.rounds, options.epochs) == (8, 4)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("--rounds=7".encode("utf-16-le"), r"a\.flags': expected a flag file, received bytes of"),
        (b"--rounds=\xff", r"a\.flags': expected a flag file as text in UTF-8"),
        (b"--flagfile={path}", "that does not name itself"),
        (None, r"a\.flags': expected a flag file, received a named pipe"),
        (
            b"--rounds=7\n--no_such=1",
            r"a\.flags': expected flags of this program, received --no_su",
        ),
    ],
)
def test_a_flag_file_that_is_no_text_is_named(tmp_path, content, told):
    path = tmp_path / "a.flags"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content.replace(b"{path}", bytes(path)))
    with pytest.raises((ValueError, flags.Error), match=told):
        ProgramFlags(define_train_flags).parse(["train", f"--flagfile={path}"])


def test_numbers_in_bounds_are_taken():
    options = ProgramFlags(define_train_flags)
    options.parse(["train", "--clip_value=inf", "--learning_rate=1e6", "--averaging=0"])
    assert options.clip_value == float("inf")
    assert options.learning_rate == 1e6
    assert options.averaging == 0.0
    assert "a finite number above 0" in options["learning_rate"].parser.syntactic_help
    assert FiniteFloatParser(lower_bound=0, below=1).parse(0.5) == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: LocalTraining(momentum=float("nan")),
        lambda: LocalTraining(temperature=float("inf")),
        lambda: LocalTraining(clip_value="1"),
        lambda: LocalTraining(epochs=True),
        lambda: LocalTraining(epochs=2**31),
        lambda: LocalTraining(sandwich=10**6),
        lambda: PrivacyAccount(float("nan"), 1e-3, 2, 10),
        lambda: PrivacyAccount(1e308, 1e-3, 2, 10),
        lambda: PrivacyAccount(1.0, float("nan"), 2, 10),
        lambda: PrivacyAccount(1.0, 1e-3, 11, 10),
        lambda: PrivacyAccount(1.0, 1e-3, 2, 10).rounds_within(float("nan"), 3),
        lambda: build_schedule("constant", float("nan"), 3),
        lambda: build_schedule("cosine", -1.0, 3),
        lambda: SimulatedTime(lambda *_: 1.0, over_asked=float("nan")),
        lambda: SimulatedTime(lambda *_: 1.0, deadline_seconds=float("nan")),
    ],
)
def test_constructors_refuse_the_same(make):
    with pytest.raises(ValueError, match="xpected"):
        make()
