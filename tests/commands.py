"""Programs as commands, and the space that these train."""

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
    """The command that `fedsup` with these arguments is."""
    return [sys.executable, "-c", "from tff_programs.programs.cli import main; main()", *arguments]


def train(folder, rounds, *more):
    """Arguments of `fedsup` that train a supernet of `SPACE` in a folder."""
    space = folder.parent / "space.json"
    space.write_text(json.dumps(SPACE))
    return ["train", f"--out={folder}", f"--space={space}", f"--rounds={rounds}", *more]
