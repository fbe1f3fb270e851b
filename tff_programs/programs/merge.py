"""fedsup merge SUPERNET UPDATE... --out=NEW.safetensors: adds what phones learned to a supernet.

An UPDATE is a file that a phone sent, or a folder of such files (all *.safetensors in it).
Updates that are damaged, of another search space, trained from another supernet, already merged or
far from all others are left out and listed with the reason; outliers in size and in the claimed
number of examples are reduced. NEW.merge.json, next to NEW.safetensors, reports what was done.
"""

import dataclasses
import glob
import os
from collections.abc import Sequence

from fedsup_tf import slicing
from fedsup_tf.files.atomic_write import check_outputs, write_json
from fedsup_tf.files.checkpoint import fingerprint
from fedsup_tf.supernet import Supernet
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_flags
from tff_programs.reports import report
from tflite.merge.cohort import CohortLimits
from tflite.merge.merge import merge_updates
from tflite.merge.merge_report import MergeReport, UsedUpdate

# Maximum number of rows of the table; the JSON file lists all updates.
_ROWS = 20
_LIMITS = CohortLimits()


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define.output_file("out", None, "File to write the new supernet to.")
    define.enum(
        "aggregation",
        "coverage",
        slicing.DIVISORS,
        "Averaging of overlapping slices: over the updates that cover an entry (coverage), or over "
        "all updates (diluted).",
    )
    define.enum(
        "weighting",
        "examples",
        slicing.WEIGHTINGS,
        "Weight of an update: its number of examples, or 1.",
    )
    define.float(
        "clip_norm",
        None,
        "Maximum L2 norm of an update; longer ones are scaled down. By default, root mean squares "
        f"are compared with their median: updates above {_LIMITS.size:g} times the median are "
        f"scaled down to that, and those above {_LIMITS.far_size:g} times are left out.",
        above=0,
    )
    define.integer(
        "max_examples",
        None,
        "Maximum number of examples that an update counts for, whatever it claims. By default "
        f"{_LIMITS.examples:g} times the median; claims above {_LIMITS.far_examples:g} times the "
        "median are left out.",
        lower_bound=1,
    )
    define.float(
        "poisoned",
        0.0,
        "Share of the updates that may be poisoned; above 0, the updates farthest from the others "
        "are set aside.",
        lower_bound=0,
        below=0.5,
    )
    define.bool(
        "trusted", False, "Take every update as it is, without comparing it with the others."
    )


def main(argv: Sequence[str]) -> None:
    """Merges the updates that the arguments name."""
    options, arguments = parse_flags(define_flags, argv)
    if len(arguments) < 2:
        raise ValueError(
            f"Expected the supernet's file and at least one update or folder; received {arguments}."
        )
    if not options.out:
        raise ValueError("Expected --out=FILE, where the new supernet is written.")
    paths = _files(arguments[1:])
    report_path = f"{os.path.splitext(options.out)[0]}.merge.json"
    check_outputs([options.out, report_path], [arguments[0], *paths])
    supernet, information = Supernet.load_checkpoint(arguments[0])
    base_hash = fingerprint(supernet.weights_by_name())
    merged_before = information.get("merged", [])
    merged = merge_updates(
        supernet,
        base_hash,
        paths,
        aggregation=options.aggregation,
        weighting=options.weighting,
        clip_norm=options.clip_norm,
        max_examples=options.max_examples,
        poisoned=options.poisoned,
        limits=None if options.trusted else _LIMITS,
        already_merged=frozenset(merged_before),
        class_names=information.get("class_names"),
    )
    number = information.get("round", 0) + 1
    identities = [update.identity for update in merged.used]
    supernet.save_checkpoint(
        options.out, {**information, "round": number, "merged": [*merged_before, *identities]}
    )
    fields = {
        "base": {"path": arguments[0], "hash": base_hash, "round": number - 1},
        "supernet": {
            "path": options.out,
            "hash": fingerprint(supernet.weights_by_name()),
            "round": number,
        },
        "aggregation": options.aggregation,
        "weighting": options.weighting,
        "clip_norm": options.clip_norm,
        "max_examples": options.max_examples,
        "poisoned": options.poisoned,
        "limits": None if options.trusted else dataclasses.asdict(_LIMITS),
        **merged.to_fields(),
    }
    write_json(report_path, fields)
    print(_table(merged))
    print(f"\nRound {number}: {options.out}, {report_path}")


def _files(arguments: list[str]) -> list[str]:
    """Returns the arguments, with each folder replaced by the update files in it."""
    paths = []
    for argument in arguments:
        if not os.path.isdir(argument):
            paths.append(argument)
            continue
        # `glob` skips files that begin with a dot, which are still being written.
        inside = sorted(glob.glob(os.path.join(glob.escape(argument), "*.safetensors")))
        if not inside:
            raise ValueError(f"Expected *.safetensors in the folder {argument!r}, found none.")
        paths += inside
    return paths


def _table(merged: MergeReport) -> str:
    rows = [("update", "architecture", "examples", "norm")]
    rows += [
        (update.name, str(update.architecture), f"{update.examples:,}", f"{update.norm:.4g}")
        for update in merged.used[:_ROWS]
    ]
    lines = [report.format_table(rows)]
    if len(merged.used) > _ROWS:
        lines.append(f"and {len(merged.used) - _ROWS} more")
    lines += [f"counted once: {name}, the same as {first}" for name, first in merged.duplicates]
    lines += [f"left out: {name}: {reason}" for name, reason in merged.rejected]
    lines += [f"cut: {update.name}: {_cut(update)}" for update in merged.used if _cut(update)]
    reached = [reach for reach in merged.coverage.values() if reach.updates]
    whole = sum(reach.share == 1 for reach in reached)
    lines.append(
        f"{len(merged.used)} used, {len(merged.rejected)} left out; of {len(merged.coverage)} "
        f"tensors {len(reached)} changed, {whole} of them in every entry"
    )
    return "\n".join(lines)


def _cut(update: UsedUpdate) -> str:
    """Describes how an update was reduced; empty if it counts unchanged."""
    parts = []
    if update.scale < 1:
        parts.append(f"its change by the factor {update.scale:.2g}")
    if update.believed_examples < update.examples:
        parts.append(f"{update.examples:,} examples to {update.believed_examples:,}")
    return ", ".join(parts)
