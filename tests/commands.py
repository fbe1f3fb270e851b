"""Command lines of programs, and the search space that they train."""

import json
import sys

SPACE = {
    "name": "tiny",
    "image_shape": [8, 8, 1],
    "classes": 10,
    "stem_width": 8,
    "stem_stride": 1,
    "stages": [{"name": "a", "widths": [8, 16], "depths": [1], "kernels": [3, 5], "stride": 2}],
}


def fedsup(*arguments):
    """Returns the command line that runs `fedsup` with these arguments."""
    return [sys.executable, "-c", "from tff_programs.programs.cli import main; main()", *arguments]


def train(folder, rounds, *more):
    """Returns the arguments of `fedsup` that train a supernet of `SPACE` in a folder."""
    space = folder.parent / "space.json"
    space.write_text(json.dumps(SPACE))
    few = (f"--rounds={rounds}", "--nocalibrated_accuracy")
    return ["train", f"--out={folder}", f"--space={space}", *few, *more]
