"""Report of training on a device: a line per epoch, the accuracy gain, and a figure of both."""

from collections.abc import Sequence
from typing import NamedTuple

from fedsup_tf.files.atomic_write import replace_file
from tff_programs.reports.report import literal
from tflite.device.epoch import EpochReport

_BAR = 20
_INK, _FAINT, _TRAINED, _HELD_OUT = "#22303c", "#9aa5af", "#3b6fb6", "#e07b39"


class Scores(NamedTuple):
    """Loss and accuracy of the model for one person.

    Attributes:
      loss: Mean loss on the training examples.
      test_loss: Mean loss on the test examples.
      test_accuracy: Accuracy on the test examples, from 0 to 1.
    """

    loss: float
    test_loss: float
    test_accuracy: float


def epoch_line(report: EpochReport, epochs: int, examples: int, loss_before: float) -> str:
    """Formats a line about an epoch; its bar shows the loss relative to `loss_before`."""
    share = min(1.0, report.loss / max(loss_before, 1e-9))
    bar = ("#" * round(_BAR * share)).ljust(_BAR, ".")
    parts = [
        f"epoch {report.epoch:>{len(str(epochs))}}/{epochs}",
        f"loss {report.loss:.3f} {bar}",
        f"accuracy {100 * report.accuracy:5.1f} %",
    ]
    if report.held_out_loss is not None:
        parts.append(f"held out {report.held_out_loss:.3f} {100 * report.held_out_accuracy:5.1f} %")
    parts.append(f"{examples / max(report.seconds, 1e-9):,.0f} examples/s")
    return "  " + " | ".join(parts)


def gain_line(before: Scores, after: Scores, examples: int) -> str:
    """Formats the personal accuracy before and after training."""
    return (
        f"personal accuracy {100 * before.test_accuracy:.1f} % -> "
        f"{100 * after.test_accuracy:.1f} % on {examples} test images (loss "
        f"{before.test_loss:.3f} -> {after.test_loss:.3f})"
    )


def speed_line(history: Sequence[EpochReport], examples: int) -> str:
    """Formats the time per step and the examples per second of the given epochs."""
    seconds = sum(report.seconds for report in history)
    steps = sum(report.steps for report in history)
    return (
        f"{1e3 * seconds / steps:.2f} ms a step, "
        f"{examples * len(history) / max(seconds, 1e-9):,.0f} examples/s"
    )


def draw_training(
    path: str,
    title: str,
    history: Sequence[EpochReport],
    before: Scores,
    after: Scores,
) -> None:
    """Draws the loss of each epoch, and the personal accuracy before and after, to a PNG.

    Args:
      path: Path of the PNG file.
      title: Title of the figure.
      history: Reports of all epochs.
      before: Scores of the model before training.
      after: Scores of the model that is kept.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.8), layout="constrained", facecolor="white")
    losses, accuracy = figure.subplots(1, 2, width_ratios=(2.6, 1))
    epochs = [report.epoch for report in history]
    losses.plot(
        [0, *epochs],
        [before.loss, *(report.loss for report in history)],
        color=_TRAINED,
        linewidth=1.8,
        marker="o",
        markersize=3.5,
        label="own images, while training",
    )
    held_out = [(r.epoch, r.held_out_loss) for r in history if r.held_out_loss is not None]
    if held_out:
        best = min(held_out, key=lambda point: point[1])
        losses.plot(
            *zip(*held_out, strict=True),
            color=_HELD_OUT,
            linewidth=1.8,
            marker="o",
            markersize=3.5,
            label="held-out images",
        )
        losses.axvline(best[0], color=_FAINT, linewidth=1, dashes=(4, 3), label="kept")
        losses.legend(frameon=False, fontsize=9, labelcolor=_INK)
    losses.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    losses.xaxis.get_major_locator().set_params(integer=True)
    shares = [100 * before.test_accuracy, 100 * after.test_accuracy]
    accuracy.bar(["before", "after"], shares, 0.6, color=[_FAINT, _TRAINED])
    for place, share in enumerate(shares):
        accuracy.annotate(
            f"{share:.1f} %",
            (place, share),
            (0, 3),
            textcoords="offset points",
            ha="center",
            color=_INK,
            weight="bold",
        )
    accuracy.set(ylim=(0, 109), ylabel="personal accuracy, %", yticks=range(0, 101, 25))
    for axes in (losses, accuracy):
        axes.grid(alpha=0.25, axis="y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_FAINT)
        axes.tick_params(colors=_INK, length=3)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
    figure.suptitle(literal(title), color=_INK, weight="bold", x=0.01, ha="left")
    replace_file(path, lambda temporary: figure.savefig(temporary, dpi=130))
