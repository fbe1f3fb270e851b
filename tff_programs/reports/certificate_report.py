"""Report of a certificate: tables of its checks and its measurements."""

from collections.abc import Mapping
from typing import Any

from tff_programs.reports import report
from tflite.certify.certify import Certificate


def checks_table(certificate: Certificate, examples: str) -> str:
    """Formats a line about the file, then one about each check with its note at the end."""
    metadata = certificate.metadata
    rows = [("runtime", "check", "holds", "absolute", "relative", "tolerance")]
    for check in certificate.checks:
        numbers = (check.absolute, check.relative, check.tolerance)
        rows.append(
            (
                check.runtime or "-",
                check.name,
                "yes" if check.holds else "NO",
                *map(_number, numbers),
            )
        )
    lines = report.format_table(rows).splitlines()
    notes = ["", "", *(check.note for check in certificate.checks)]
    lines = [f"{line}  {note}".rstrip() for line, note in zip(_even(lines), notes, strict=True)]
    runtimes = ", ".join(" ".join(pair) for pair in certificate.runtimes.items())
    head = (
        f"{metadata.architecture}, {metadata.parameters:,} parameters, supernet of round "
        f"{metadata.round}; examples: {examples}; runtimes: {runtimes or 'none'}\n"
    )
    return head + "\n".join(lines)


def measured_table(measured: Mapping[str, Any]) -> str:
    """Formats time and memory, with a line for each engine, and the file sizes."""
    rows = [("engine", "threads", "infer ms", "train ms", "least", "")]
    for entry in measured["latency"]:
        names = ("infer_ms", "train_ms", "least_train_ms")
        times = (f"{entry[name]:.2f}" if name in entry else "-" for name in names)
        rows.append((entry["engine"], str(entry["threads"]), *times, entry.get("error", "")))
    memory = [("engine", "", "baseline", "peak", "of training", "library")]
    for entry in measured["memory"]:
        sizes = ("baseline_bytes", "peak_bytes", "training_bytes", "runtime_bytes")
        cells = (report.format_bytes(entry[name]) if entry.get(name) else "-" for name in sizes)
        memory.append((entry["engine"], entry.get("error", ""), *cells))
    sizes = [
        f"{name} file {report.format_bytes(count)}" for name, count in measured["files"].items()
    ]
    load = ", ".join(f"{value:.1f}" for value in measured["load"])
    return "\n".join(
        [
            report.format_table(rows),
            f"medians of {measured['repetitions']} calls in alternating turns, train batch "
            f"{measured['batch_sizes']['train']}, infer batch {measured['batch_sizes']['infer']}; "
            f"load of the machine {load}",
            "",
            report.format_table(memory),
            "; ".join(sizes),
        ]
    )


def _even(lines):
    width = max(map(len, lines))
    return [line.ljust(width) for line in lines]


def _number(value):
    return "-" if value is None else f"{value:.1e}"
