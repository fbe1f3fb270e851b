# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=2", "pandas", "rdata", "seglearn==1.2.5"]
# ///
"""Writes data sets with natural clients as `.npz` files for `--dataset`.

    uv run --script experiments/natural_clients.py smartwatch OUT.npz
    uv run --script experiments/natural_clients.py vowels Vowel.rda OUT.npz

smartwatch: shoulder exercises of 10 people, from the Python package seglearn. vowels: 11 vowels of
15 speakers, from the R package mlbench (Debian: r-cran-mlbench). docs/own_data.md describes both.
The script has its own dependencies, which `uv run --script` installs in a separate environment.
"""

import sys

import numpy as np

# Samples per window: 1.9 s of the smartwatch.
_WINDOW = 96
_PERCENTILES = (0.5, 99.5)


def _as_pixels(values: np.ndarray) -> np.ndarray:
    """Scales each column of `(rows, columns)` to 0..255 between its `_PERCENTILES`."""
    low, high = np.percentile(values, _PERCENTILES, axis=0)
    return np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)


def smartwatch(out: str) -> None:
    """Writes windows of all sensors; the last quarter of each recording is test data."""
    from seglearn.datasets import load_watch

    watch = load_watch()
    pixels = _as_pixels(np.concatenate(watch["X"]))
    ends = np.cumsum([len(recording) for recording in watch["X"]])
    parts = {"": ([], [], []), "test_": ([], [], [])}
    names = [watch["y_labels"][label] for label in watch["y"]]
    recordings = np.split(pixels, ends[:-1])
    for recording, label, person in zip(recordings, names, watch["subject"], strict=True):
        count = len(recording) // _WINDOW
        windows = recording[: count * _WINDOW].reshape(count, 1, _WINDOW, -1)
        train = count - round(count / 4)
        for part, own in (("", windows[:train]), ("test_", windows[train:])):
            images, labels, clients = parts[part]
            images.append(own)
            labels += [label] * len(own)
            clients += [str(person)] * len(own)
    arrays = {}
    for part, (images, labels, clients) in parts.items():
        arrays |= {f"{part}images": np.concatenate(images), f"{part}labels": labels}
        arrays[f"{part}clients"] = clients
    np.savez(out, **arrays)


def vowels(table: str, out: str) -> None:
    """Writes the 9 features of each utterance, in order, as images of shape `(1, 9, 1)`."""
    import rdata

    rows = rdata.read_rda(table, default_encoding="ascii")["Vowel"]
    pixels = _as_pixels(rows[[f"V{number}" for number in range(2, 11)]].to_numpy())
    labels, speakers = rows["Class"].to_numpy(str), rows["V1"].to_numpy(str)
    np.savez(out, images=pixels[:, np.newaxis, :, np.newaxis], labels=labels, clients=speakers)


if __name__ == "__main__":
    {"smartwatch": smartwatch, "vowels": vowels}[sys.argv[1]](*sys.argv[2:])
