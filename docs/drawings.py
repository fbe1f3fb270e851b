"""Draws the pictures of docs/architecture.md: python docs/drawings.py writes them beside itself."""

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
# On a light card of its own, a picture reads the same on a light and on a dark page.
PAPER, INK, MUTED, LINE = "#ffffff", "#1f2933", "#52606d", "#9aa5b1"
BLUE, GREEN, ORANGE = "#dbeafe", "#dcfce7", "#ffedd5"
LINE_HEIGHT = 17


class Drawing:
    """An SVG picture of boxes and arrows; coordinates are in pixels from the upper left."""

    def __init__(self, width: int, height: int, title: str):
        self._size = (width, height)
        self._title = title
        self._parts: list[str] = []

    def box(self, x: int, y: int, width: int, height: int, fill: str, title: str, *lines: str):
        """Draws a box with a bold title and lines of text below it."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}" '
            f'stroke="{LINE}"/>'
        )
        self.text(x + 12, y + 22, title, weight="bold")
        for number, line in enumerate(lines, 1):
            self.text(x + 12, y + 22 + number * LINE_HEIGHT, line, INK, 12)

    def text(self, x: int, y: int, text: str, colour: str = INK, size: int = 14, weight="normal"):
        """Writes one line of text that begins at a point of its base line."""
        self._parts.append(
            f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}" font-weight="{weight}">'
            f"{escape(text)}</text>"
        )

    def arrow(self, *points: tuple[int, int], label: str = "", at: tuple[int, int] = (0, 0)):
        """Draws an arrow along points, with a label whose base line begins at `at`."""
        path = " ".join(f"{x},{y}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{MUTED}" stroke-width="1.8" '
            'marker-end="url(#head)"/>'
        )
        if label:
            self.text(*at, label, MUTED, 12)

    def svg(self) -> str:
        """The picture as the text of an SVG file."""
        width, height = self._size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                f'width="{width}" height="{height}" role="img" font-family="sans-serif">',
                f"<title>{escape(self._title)}</title>",
                '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
                f'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="{MUTED}"/>'
                "</marker></defs>",
                f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>',
                *self._parts,
                "</svg>\n",
            ]
        )


def rooms() -> Drawing:
    """The packages, their rooms, and who imports whom."""
    drawing = Drawing(980, 580, "Packages and rooms; an arrow points at what is imported")
    columns = [
        (20, BLUE, "fedsup_tf", "TensorFlow and NumPy"),
        (350, GREEN, "tflite", "files for phones"),
        (680, ORANGE, "tff_programs", "TensorFlow Federated"),
    ]
    contents = [
        [
            ("search", "evolution, budgets, latency tables"),
            ("data", "data sets, archives, partitions"),
            ("core", "space, architecture, layers, slicing,", "supernet, local training"),
            ("ops", "operations with their gradients"),
            ("files", "checkpoints, JSON"),
        ],
        [
            ("profiling", "latency tables, engines compared"),
            ("certify", "a file compared with its subnet"),
            ("merge", "updates are checked and averaged"),
            ("together", "a device's side of the gateway"),
            ("export · flatbuffer", "a subnet becomes a file"),
            ("device", "training without TensorFlow"),
            ("format", "signatures, metadata, update file"),
        ],
        [
            ("programs · notebooks", "what a person runs"),
            ("reports", "tables, plots"),
            ("gateway", "rounds of phones over HTTP"),
            ("simulation · execution", "tiers, round plans; workers"),
            ("learning", "the LearningProcess, evaluation"),
            ("aggregators", "overlap mean, clipping, privacy"),
            ("types", "what travels in a round"),
        ],
    ]
    for (x, colour, name, what), boxes in zip(columns, contents, strict=True):
        drawing.text(x + 4, 34, name, weight="bold", size=17)
        drawing.text(x + 4, 53, what, MUTED, 12)
        y = 68
        for title, *lines in boxes:
            height = 34 + LINE_HEIGHT * len(lines)
            drawing.box(x, y, 280, height, colour, title, *lines)
            y += height + 12
    drawing.arrow((676, 28), (560, 28), label="imports", at=(598, 22))
    drawing.arrow((346, 28), (230, 28), label="imports", at=(268, 22))
    drawing.text(
        20,
        530,
        "Within a package a room imports only rooms below it (data.preprocessing is below core).",
        MUTED,
        13,
    )
    drawing.text(
        20,
        552,
        "tests/lint/test_imports.py states every direction and fails on another.",
        MUTED,
        13,
    )
    return drawing


def round_data() -> Drawing:
    """Draws the data that server and clients exchange in a round of E-FedSup."""
    drawing = Drawing(980, 560, "The data of one round of E-FedSup, between server and clients")
    drawing.text(30, 34, "Server", weight="bold", size=17)
    drawing.text(640, 34, "Client, one of a round", weight="bold", size=17)
    drawing.box(20, 52, 330, 76, BLUE, "Supernet weights", "ModelWeights, one tensor a name", "")
    drawing.text(32, 110, "learning/training_process.py", MUTED, 12)
    drawing.box(630, 52, 330, 76, ORANGE, "Client data", "images, labels, seed, client number,")
    drawing.text(642, 108, "architecture: the subnet it trains", INK, 12)
    drawing.arrow((630, 72), (350, 72), label="key: architecture's index", at=(410, 64))
    drawing.box(
        630, 180, 330, 76, ORANGE, "Received subnet", "only the slices that the architecture uses"
    )
    drawing.text(642, 236, "learning/distribution.py, federated_select", MUTED, 12)
    drawing.arrow((350, 110), (490, 110), (490, 218), (630, 218))
    drawing.text(372, 160, "Supernet.slices:", MUTED, 12)
    drawing.text(372, 177, "name -> Slice", MUTED, 12)
    drawing.box(
        630, 306, 330, 92, GREEN, "local_update", "batches of SGD; each step also trains smaller"
    )
    drawing.text(642, 362, "nets (sandwich), from labels and a teacher", INK, 12)
    drawing.text(642, 382, "fedsup_tf/client_update.py", MUTED, 12)
    drawing.arrow((795, 256), (795, 306))
    drawing.box(
        630, 448, 330, 92, ORANGE, "SubnetUpdate", "delta of the slices, architecture, client,"
    )
    drawing.text(642, 504, "examples, loss; in 8 bits an entry if asked", INK, 12)
    drawing.text(642, 524, "types.py, aggregators/compression.py", MUTED, 12)
    drawing.arrow((795, 398), (795, 448))
    drawing.box(
        20, 448, 330, 92, BLUE, "Overlap of the updates", "sum and coverage of every entry, client"
    )
    drawing.text(32, 504, "after client; clipped, zeroed or set aside", INK, 12)
    drawing.text(32, 524, "tff_programs/aggregators, fedsup_tf/slicing.py", MUTED, 12)
    drawing.arrow((630, 494), (350, 494), label="only its slices", at=(450, 486))
    drawing.box(20, 306, 330, 92, BLUE, "MeanUpdate", "each entry's mean over the clients that")
    drawing.text(32, 362, "trained it (coverage), and who is covered", INK, 12)
    drawing.text(32, 382, "slicing.average", MUTED, 12)
    drawing.arrow((185, 448), (185, 398))
    drawing.box(
        20, 180, 330, 76, BLUE, "Server step", "adds the mean, or a server optimizer's step;"
    )
    drawing.text(32, 236, "entries that nobody trained stay", INK, 12)
    drawing.arrow((185, 306), (185, 256))
    drawing.arrow((185, 180), (185, 128))
    return drawing


def to_a_phone() -> Drawing:
    """Draws the steps from a subnet to a file, to training on a phone and to its merged update."""
    drawing = Drawing(980, 470, "A subnet's way from the supernet to a phone and back")
    drawing.box(
        20, 40, 270, 92, BLUE, "supernet.safetensors", "weights, search space, preprocessing,"
    )
    drawing.text(32, 96, "class names, settings", INK, 12)
    drawing.text(32, 118, "fedsup train", MUTED, 12)
    drawing.box(360, 20, 250, 58, BLUE, "architecture.json", "fedsup search, under a budget")
    drawing.box(
        360, 96, 250, 58, BLUE, "calibration.safetensors", "fedsup calibrate, clients' sums"
    )
    drawing.arrow((290, 62), (325, 62), (325, 49), (360, 49))
    drawing.arrow((290, 110), (325, 110), (325, 125), (360, 125))
    drawing.box(690, 40, 270, 92, GREEN, "Keras subnet", "Supernet.extract: a Supernet over a")
    drawing.text(702, 96, "space of one point, sliced weights", INK, 12)
    drawing.text(702, 118, "fedsup_tf/supernet.py", MUTED, 12)
    drawing.arrow((610, 49), (690, 62))
    drawing.arrow((610, 125), (690, 112))
    drawing.box(
        690, 200, 270, 112, GREEN, "subnet.tflite", "infer, train, evaluate, save, restore:"
    )
    drawing.text(702, 256, "builtin operators alone; fedsup.json says", INK, 12)
    drawing.text(702, 273, "what it is, model.sha256 that it is whole", INK, 12)
    drawing.text(702, 298, "fedsup export, fedsup certify", MUTED, 12)
    drawing.arrow((825, 132), (825, 200))
    drawing.box(690, 366, 270, 84, ORANGE, "Phone", "the stock TensorFlow Lite runtime trains")
    drawing.text(702, 422, "it on what stays on the phone", INK, 12)
    drawing.text(702, 441, "android_demo, fedsup device", MUTED, 12)
    drawing.arrow((825, 312), (825, 366))
    drawing.box(
        355, 366, 260, 84, ORANGE, "update.safetensors", "differences of the weights; no code,"
    )
    drawing.text(367, 422, "no examples", INK, 12)
    drawing.text(367, 441, "tflite/format/update_file.py", MUTED, 12)
    drawing.arrow((690, 408), (615, 408))
    drawing.box(20, 366, 270, 84, BLUE, "fedsup merge", "checks every update, then the arithmetic")
    drawing.text(32, 422, "of a federated round", INK, 12)
    drawing.text(32, 441, "tflite/merge", MUTED, 12)
    drawing.arrow((355, 408), (290, 408))
    drawing.arrow((155, 366), (155, 132), label="the next supernet", at=(165, 255))
    return drawing


DRAWINGS = {"rooms.svg": rooms, "round_data.svg": round_data, "to_a_phone.svg": to_a_phone}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (FOLDER / name).write_text(draw().svg(), encoding="utf-8")
