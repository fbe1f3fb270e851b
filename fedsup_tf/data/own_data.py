"""Reads your own data (a folder or table of pictures, or an `.npz` file) as clients' examples."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedsup_tf.data.archives import DatasetError
from fedsup_tf.data.array_examples import join_arrays, read_arrays
from fedsup_tf.data.channel_statistics import channel_sums, mean_and_deviation
from fedsup_tf.data.class_labels import (
    alike_names,
    check_names,
    list_names,
    number_labels,
    sort_names,
)
from fedsup_tf.data.datasets import ImageDataset
from fedsup_tf.data.example_files import list_folder, list_table
from fedsup_tf.data.examples import Examples
from fedsup_tf.data.idx_files import holds_idx, read_any_idx
from fedsup_tf.data.odd_images import repeated_notes
from fedsup_tf.data.partition import ClientIndices, draw_test_set
from fedsup_tf.data.picture_examples import read_listed
from fedsup_tf.data.pictures import PictureForm
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.data.wide_pixels import DARK, PICTURE_GREATEST, scale_pixels
from fedsup_tf.files.reading import InvalidFileError
from fedsup_tf.files.validation import check_number, check_whole_number

# Random streams: of the held-out examples, and of the test examples drawn for a client.
_ASIDE, _TEST = 0, 1
_TABLES = (".csv", ".tsv")


class OwnClients(NamedTuple):
    """Arguments of a `FederatedDataset`: your own data and its clients.

    Attributes:
      dataset: The arrays with numbered labels, class names and preprocessing.
      clients: Each client's examples; a single client if the data names none.
      client_names: Name of each client.
      notes: Messages from reading the data, such as which files were not used.
    """

    dataset: ImageDataset
    clients: tuple[ClientIndices, ...]
    client_names: tuple[str, ...]
    notes: tuple[str, ...]


def read_own(
    path: str | os.PathLike,
    image_shape: tuple[int, int, int] | None = None,
    resize: str | None = None,
    background: str | None = None,
    pixel_scale: float | None = None,
    *,
    preprocessing: Preprocessing | None = None,
) -> Examples:
    """Reads a folder of pictures, a `.csv` table of pictures or an `.npz` file.

    Args:
      path: Path laid out as described in `example_files.list_folder`, `example_files.list_table`,
        `array_examples.read_arrays` or `idx_files.read_any_idx`.
      image_shape: Target `(height, width, channels)`; by default that of the images, which must be
        the same for all.
      resize: See `PictureForm`; by default that of `preprocessing`.
      background: See `PictureForm`; by default that of `preprocessing`.
      pixel_scale: Pixel value of full brightness, for arrays and for pictures of more than 8 bits
        per channel; by default inferred from the data.
      preprocessing: Preprocessing of the model that will use the data. A note reports pictures that
        are read differently from the model's.

    Raises:
      DatasetError: If the data does not exist or cannot be read; the message says what was
        expected.
    """
    resize, resize_notes = _chosen("resize", resize, preprocessing)
    background, background_notes = _chosen("background", background, preprocessing)
    form = (image_shape, resize, background, pixel_scale)
    try:
        examples = _read(os.path.expanduser(os.fsdecode(path)), *form)
    except InvalidFileError as error:
        raise DatasetError(str(error)) from error
    if examples.resize is not None:
        examples = examples._replace(notes=resize_notes + background_notes + examples.notes)
    return examples


def _chosen(
    name: str, given: str | None, preprocessing: Preprocessing | None
) -> tuple[str, tuple[str, ...]]:
    """Returns the value of a `PictureForm` field, and a note if it differs from the model's."""
    of_model = None if preprocessing is None else getattr(preprocessing, name)
    if given is None:
        return of_model or getattr(PictureForm, name), ()
    if of_model in (None, given):
        return given, ()
    return given, (
        f"Pictures are read with {name} {given}, those that the model was trained on with "
        f"{of_model}: leave {name} out to read them alike.",
    )


def _read(path: str, *form) -> Examples:
    if "://" in path:
        raise DatasetError(
            f"{path!r}: expected a path on this machine, received an address. Fetch the data first."
        )
    if os.path.isdir(path) and holds_idx(Path(path)):
        name = os.path.basename(os.path.abspath(path))
        return join_arrays(repr(path), name, read_any_idx(Path(path)), *form)
    if os.path.isdir(path):
        return read_listed(path, list_folder(path), *form)
    if path.lower().endswith(_TABLES):
        return read_listed(path, list_table(path), *form)
    if path.lower().endswith(".npz"):
        return read_arrays(path, *form)
    received = "a file of another kind" if os.path.exists(path) else "nothing at this path"
    raise DatasetError(
        f"{path!r}: expected a folder of pictures, a .csv table of pictures or an .npz file, "
        f"received {received}. Check the path (docs/own_data.md)."
    )


def _for_model(examples: Examples, preprocessing: Preprocessing) -> Examples:
    """Checks that images suit a model, and scales them if they are too bright for it.

    Notes report scaled and very dark images.
    """
    source, greatest_pixel = examples.name, preprocessing.greatest_pixel
    channels = len(preprocessing.mean)
    if examples.images.shape[-1] != channels:
        raise DatasetError(
            f"{source}: expected images of {channels} channels, which the preprocessing is for, "
            f"received {examples.images.shape[-1]}. Give image_shape, or another preprocessing."
        )
    if greatest_pixel is None:
        return examples
    brightest = int(examples.images.max())
    if brightest > greatest_pixel and examples.greatest_pixel < PICTURE_GREATEST:
        raise DatasetError(
            f"{source}: expected pixels from 0 to {greatest_pixel}, those that the model was "
            f"trained on, or to {PICTURE_GREATEST}, received whole numbers up to {brightest}. Give "
            "their value of full brightness as pixel_scale."
        )
    if brightest > greatest_pixel:
        note = (
            f"The images' pixels of 0..{PICTURE_GREATEST} were scaled to 0..{greatest_pixel}, "
            "those that the model was trained on."
        )
        images = scale_pixels(examples.images, PICTURE_GREATEST, greatest_pixel)
        return examples._replace(images=images, notes=(*examples.notes, note))
    if brightest * DARK > greatest_pixel:
        return examples
    note = (
        f"No pixel of the images is above {brightest}, and the model was trained on pixels from 0 "
        f"to {greatest_pixel}: if they are of another scale, write them anew in this one."
    )
    return examples._replace(notes=(*examples.notes, note))


def check_kind(path: str | os.PathLike, expected: str) -> None:
    """Raises a DatasetError unless a path is what is expected: `"a folder"` or `"a .csv table"`."""
    path = os.path.expanduser(os.fsdecode(path))
    is_kind = os.path.isdir(path) if expected == "a folder" else path.lower().endswith(_TABLES)
    if not is_kind:
        raise DatasetError(f"{path!r}: expected {expected}, received none. Check the path.")


def split_by_class(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the examples of each class into a part that is kept and a held-out part.

    Args:
      labels: `(examples,)`, whole numbers from 0.
      share: Fraction of each class to hold out, rounded to whole examples; above 0 and below 1.
      seed: Seed of the random choice.

    Returns:
      Ascending indices of the kept and of the held-out examples.

    Raises:
      ValueError: If either part would be empty.
    """
    check_number(share, "the share to set aside", above=0, below=1)
    aside = _set_aside(labels, share, np.random.default_rng((seed, _ASIDE)))
    if aside.all() or not aside.any():
        raise ValueError(
            f"Expected enough examples to set aside {share:.0%} of each class and keep the rest, "
            f"received {len(labels)} examples. Add some, or change the share."
        )
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def _set_aside(labels: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    aside = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held = random.permutation(np.flatnonzero(labels == label))
        # Rounds half an example up.
        aside[held[: int(len(held) * share + 0.5)]] = True
    return aside


def _set_aside_some(labels: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Holds out a share like `_set_aside`, but at least one example and never all of a class."""
    aside = _set_aside(labels, share, random)
    for label in np.unique(labels[aside]):
        if aside[labels == label].all():
            aside[np.flatnonzero(labels == label)[0]] = False
    if not aside.any():
        values, counts = np.unique(labels, return_counts=True)
        spare = np.flatnonzero(np.isin(labels, values[counts > 1]))
        aside[random.permutation(spare)[:1]] = True
    return aside


def _numbered_notes(
    given: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> tuple[str, ...]:
    """Returns a note if labels are the numbers of a model's classes rather than their names."""
    values, first = np.unique(given, return_index=True)
    texts = [str(value) for value in values.tolist()]
    numbers = labels[first].tolist()
    names = [class_names[number] for number in numbers]
    if texts == names or texts != [str(number) for number in numbers]:
        return ()
    pairs = [f"{text} is {name}" for text, name in zip(texts, names, strict=True)]
    return (
        f"Labels are taken as numbers of the model's classes from 0: {list_names(pairs)}. If your "
        "numbers do not start at 0, use the names of the classes as labels.",
    )


def _alike_notes(what: str, one: str, names: Sequence[str]) -> tuple[str, ...]:
    alike = alike_names(names)
    if not alike:
        return ()
    return (
        f"{what} {' and '.join(map(repr, alike))} differ in case or spaces alone: if they are one "
        f"{one}, name them alike.",
    )


def own_clients(
    examples: Examples,
    class_names: Sequence[str] | None,
    preprocessing: Preprocessing | None,
    test_share: float,
    seed: int,
) -> OwnClients:
    """Numbers labels, holds out test examples and finds each client's examples.

    Args:
      examples: Examples as a reader returns them.
      class_names: Names of the allowed classes, see `class_labels.number_labels`; by default each
        distinct label is a class.
      preprocessing: Normalization, that of a model if there is one: images that are too bright for
        it are scaled, and a note reports it. By default with the mean and standard deviation of
        each channel, computed from the sums of all clients.
      test_share: Fraction of each client's examples of each class to hold out for testing, if the
        data has no test split.
      seed: Seed of all random choices.

    Raises:
      ValueError: If a label is not one of the classes, or the share is out of range.
    """
    check_number(test_share, "test_share", above=0, below=1)
    check_whole_number(seed, "seed", 0)
    if preprocessing is not None:
        examples = _for_model(examples, preprocessing)
    notes = examples.notes
    is_new = class_names is None
    labels, class_names = number_labels(examples.labels, class_names, examples.name)
    if not is_new:
        notes += _numbered_notes(examples.labels, labels, class_names)
    if is_new:
        notes += _alike_notes("Classes", "class", class_names)
    has_clients = examples.clients is not None
    owners = examples.clients if has_clients else np.full(len(labels), "0")
    different, places = np.unique(owners, return_inverse=True)
    different = check_names(different.tolist(), f"{examples.name}, clients")
    names = sort_names(name for name in different if name)
    number_of = {name: number for number, name in enumerate(names)} | {"": -1}
    owners = np.array([number_of[name] for name in different])[places]
    notes += _alike_notes("Clients", "client", names)
    is_test = examples.is_test
    if is_test is None:
        is_test = np.zeros(len(labels), bool)
        for number in range(len(names)):
            own = np.flatnonzero(owners == number)
            stream = (seed, _ASIDE, number) if has_clients else (seed, _ASIDE)
            random = np.random.default_rng(stream)
            is_test[own] = _set_aside_some(labels[own], test_share, random)
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    untrained = np.setdiff1d(labels[test], labels[train])
    if len(untrained):
        names_text = list_names([class_names[label] for label in untrained])
        notes += (f"There are test examples, but no training examples, of classes {names_text}.",)
    random = np.random.default_rng((seed, _TEST))
    train_owners, test_owners = owners[train], owners[test]
    is_nobodys = (test_owners < 0).any()
    clients = []
    for number in range(len(names)):
        own = np.flatnonzero(train_owners == number)
        own_test = np.flatnonzero(test_owners == number)
        if is_nobodys:
            # Test examples without a client: draw some with the client's class frequencies.
            count = max(1, len(test) // len(names))
            own_test = draw_test_set(labels[train][own], labels[test], count, random)
        clients.append(ClientIndices(own, own_test))
    images, test_images = examples.images[train], examples.images[test]
    notes += repeated_notes(images, test_images)
    if preprocessing is None:
        sums = (channel_sums(images[client.train]) for client in clients)
        preprocessing = Preprocessing(
            *mean_and_deviation(sums),
            greatest_pixel=examples.greatest_pixel,
            resize=examples.resize,
            background=examples.background,
        )
    dataset = ImageDataset(
        name=examples.name,
        train_images=images,
        train_labels=labels[train],
        test_images=test_images,
        test_labels=labels[test],
        class_names=class_names,
        preprocessing=preprocessing,
    )
    return OwnClients(dataset, tuple(clients), names, notes)
