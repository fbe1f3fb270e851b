"""fedsup profile --space=SPACE --out=table.json: measures the latency of the parts of subnets.

Each part of a space's subnets (the stem, each choice of each stage, the head) is timed on this
machine in the stock runtime, for inference and for a training step. From this table, `fedsup search
--latency_table` computes the latency of any subnet as a sum. The table also states the errors of
such sums, measured on whole subnets: the smallest, the largest and some random ones. If a run is
killed, the same command continues it. Each time is the shortest of many repetitions, and on one
thread it is processor time, so the machine may be in use meanwhile, but should have little load.

With --parts=FILE.zip nothing is measured on this machine: the file holds the models, and the
Android app or `org.fedsup.trainer` measures them on a phone and shares the table.
"""

import os
import time
from collections.abc import Sequence

import numpy as np

from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.files.atomic_write import check_outputs
from fedsup_tf.local_training import LocalTraining
from fedsup_tf.presets import load_space
from fedsup_tf.search.cost_parts import Part, parts_of_space
from fedsup_tf.search.latency import LatencyTable
from fedsup_tf.space import SearchSpace
from fedsup_tf.supernet import Supernet
from tff_programs.programs.flags.number_flags import MAX_SEED
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_flags_only
from tff_programs.programs.training_information import device_training, saved_preprocessing
from tff_programs.reports import report
from tflite.profiling.part_models import Conditions, ModelConverter, write_part_models
from tflite.profiling.profile import Profile, Profiler, fit_table
from tflite.profiling.timing import describe_machine

_DEFAULTS = Conditions()


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define.path("space", None, "Search space: a preset's name or a JSON file.")
    define.path("supernet", None, "File of a trained supernet, whose search space is used.")
    define.output_file("out", None, "JSON file to write the table to.")
    define.output_file(
        "parts", None, "Or a zip file to write the models to, for a phone to measure its own table."
    )
    define.integer("threads", _DEFAULTS.threads, "Number of threads of the runtime.", lower_bound=1)
    define.integer(
        "train_batch_size",
        _DEFAULTS.train_batch_size,
        "Number of images in a training step.",
        lower_bound=1,
    )
    define.integer(
        "infer_batch_size",
        _DEFAULTS.infer_batch_size,
        "Number of images in an inference.",
        lower_bound=1,
    )
    define.integer(
        "repetitions",
        _DEFAULTS.repetitions,
        "Number of repetitions, of which the shortest counts.",
        lower_bound=1,
    )
    define.integer(
        "fit_subnets", 3, "Number of subnets to fit the two correction factors on.", lower_bound=0
    )
    define.integer(
        "check_subnets",
        3,
        "Number of subnets, besides the smallest and largest, to measure the error on.",
        lower_bound=0,
    )
    define.integer(
        "subnets_seed", 0, "Seed of the drawn subnets.", lower_bound=0, upper_bound=MAX_SEED
    )


def main(argv: Sequence[str]) -> None:
    """Measures the table, or writes the models for a phone to measure."""
    options = parse_flags_only(define_flags, argv)
    if bool(options.out) == bool(options.parts):
        raise ValueError(
            "Expected one of --out=FILE.json, where the table of this machine is written, and "
            "--parts=FILE.zip, the models that a phone measures its own table on."
        )
    inputs = [name for name in (options.supernet, options.space) if name and os.path.exists(name)]
    check_outputs([options.out or options.parts], inputs)
    start = time.monotonic()
    supernet, preprocessing, training = subject_from_flags(options)
    space = supernet.space
    conditions = Conditions(
        options.train_batch_size, options.infer_batch_size, options.threads, options.repetitions
    )
    converter = ModelConverter(supernet, preprocessing, training, conditions)
    checked_on, fitted_on = _draw_subnets(options, space)
    if options.parts:
        write_part_models(options.parts, converter, fitted_on, checked_on, _tell_entry)
        print(f"{options.parts}: {os.path.getsize(options.parts):,} bytes")
        return
    profile = Profile(space, conditions)
    partial = f"{options.out}.partial"
    total = len(parts_of_space(space))
    if os.path.exists(partial):
        profile.load(partial)
        print(f"goes on from {partial}: {len(profile.parts)} of {total} parts", flush=True)
    subnets = len(checked_on) + len(fitted_on)

    def on_file(measured):
        profile.save(partial)
        for item in measured:
            if isinstance(item, Part):
                latency, place = profile.parts[item], f"part {_place(profile.parts, item)}/{total}"
                description = " ".join(
                    f"{k} {v}" for k, v in item._asdict().items() if k in _shown(item)
                )
            else:
                latency = profile.subnets[item]
                place = f"subnet {_place(profile.subnets, item)}/{subnets}"
                description = str(item)
            print(
                f"{time.monotonic() - start:4.0f} s | {place} | infer {latency.infer_ms:.3f} ms, "
                f"train {latency.train_ms:.2f} ms | {description}",
                flush=True,
            )

    profiler = Profiler(profile, converter, on_file)
    profiler.measure_parts()
    print(f"exports {subnets} whole subnets and measures them", flush=True)
    profiler.measure_subnets([*checked_on, *fitted_on])
    table = fit_table(profile, fitted_on, checked_on, describe_machine())
    table.save(options.out)
    os.remove(partial)
    print(f"\n{_errors_table(table, profile, checked_on, fitted_on)}\n")
    for name in ("infer", "train"):
        measurement = getattr(table, name)
        print(
            f"{name}: median error {100 * measurement.median_error:.1f} %, largest "
            f"{100 * measurement.largest_error:.1f} %, on {measurement.subnets} subnets"
        )
    print(f"{table.machine}\n{time.monotonic() - start:.0f} s, {options.out}")


def _tell_entry(name: str, size: int) -> None:
    print(f"{name}: {size:,} bytes", flush=True)


def subject_from_flags(options: ProgramFlags) -> tuple[Supernet, Preprocessing, LocalTraining]:
    """Returns the supernet to measure, its preprocessing and its training, as the flags name them.

    Raises:
      ValueError: If they name no supernet or two, or its file cannot be read.
    """
    options.let_override("space", others=("supernet",))
    options.let_override("supernet", others=("space",))
    if bool(options.space) == bool(options.supernet):
        raise ValueError("Expected one of --space and --supernet: what to measure.")
    if not options.supernet:
        supernet = Supernet(load_space(options.space))
        # Untrained branches output zeros, with which a machine may be faster.
        weights = supernet.values_by_name()
        ones = {n: np.ones_like(v) for n, v in weights.items() if n.endswith("/gamma")}
        supernet.assign_weights({**weights, **ones})
        return supernet, _any_preprocessing(supernet.space), LocalTraining()
    supernet, information = Supernet.load_checkpoint(options.supernet)
    preprocessing = saved_preprocessing(information) or _any_preprocessing(supernet.space)
    return supernet, preprocessing, device_training(information)


def _any_preprocessing(space: SearchSpace) -> Preprocessing:
    """Returns some normalization; the choice does not affect the latency."""
    channels = space.image_shape[2]
    return Preprocessing((127.5,) * channels, (64.0,) * channels)


def _draw_subnets(options: ProgramFlags, space) -> tuple[list, list]:
    """Draws subnets to measure the error on, and others to fit on (fewer if the space is small)."""
    rng = np.random.default_rng([options.subnets_seed, 0])
    chosen = dict.fromkeys([space.smallest(), space.largest()])
    wanted = 2 + options.check_subnets + options.fit_subnets
    while len(chosen) < min(wanted, space.size):
        chosen[space.sample(rng)] = None
    chosen = list(chosen)
    return chosen[: 2 + options.check_subnets], chosen[2 + options.check_subnets :]


def _errors_table(table: LatencyTable, profile: Profile, checked_on, fitted_on) -> str:
    rows = [("subnet", "", "infer ms", "sum", "error", "train ms", "sum", "error")]
    for architecture in [*checked_on, *fitted_on]:
        cells = []
        for said, true in zip(
            table.latency(architecture), profile.subnets[architecture], strict=True
        ):
            cells += [f"{true:.2f}", f"{said:.2f}", f"{100 * (said / true - 1):+.1f} %"]
        use = "checked" if architecture in checked_on else "fitted on"
        rows.append((str(architecture), use, *cells))
    return report.format_table(rows)


def _shown(part: Part) -> tuple[str, ...]:
    """Returns the names of the fields of a part's kind, and its resolution if it has one."""
    kind = {"stem": ("kind",), "head": ("kind", "in_width")}.get(part.kind, part._fields[1:-1])
    return (*kind, "resolution") if part.resolution else kind


def _place(measured, item) -> int:
    return list(measured).index(item) + 1
