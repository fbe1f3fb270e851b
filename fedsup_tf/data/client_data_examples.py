"""Reads the clients of a `tff.simulation.datasets.ClientData` into arrays; TFF is not imported."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedsup_tf.data.archives import DatasetError
from fedsup_tf.data.array_examples import join_arrays
from fedsup_tf.data.class_labels import list_names
from fedsup_tf.data.examples import MAX_IMAGE_BYTES, Examples

# Names of element fields in TFF's and Keras's data sets.
_IMAGE_FIELDS = ("pixels", "image", "images", "image/decoded", "x")
_LABEL_FIELDS = ("label", "labels", "y")
# Batch size for reading unbatched elements.
_ELEMENTS = 1024
# `tf.data.INFINITE_CARDINALITY`.
_ENDLESS = -1


def read_client_data(
    name: str,
    train: Any,
    test: Any | None = None,
    image: str | None = None,
    label: str | None = None,
    client_ids: Sequence[str] | None = None,
    pixel_scale: float | None = None,
) -> Examples:
    """Reads the examples of each client.

    Args:
      name: Name of the data set.
      train: Training split, a `tff.simulation.datasets.ClientData`. Each element of a client's data
        set is a mapping with an image and a label, or a pair of them; elements may be batched.
      test: Test split, if any.
      image: Element field with the image, `(height, width)` or `(height, width, channels)`; by
        default the one with a common name.
      label: Element field with the label, a number or a text; by default the one with a common
        name.
      client_ids: Clients to read; by default all clients of `train`.
      pixel_scale: Pixel value of full brightness; by default inferred from the images.

    Raises:
      DatasetError: If a client does not exist, elements have no image or label, or the images take
        too much memory.
    """
    source = f"Data set {name}"
    client_ids = _chosen_clients(source, train, client_ids)
    arrays = _read_part(source, train, image, label, client_ids)
    if test is not None:
        tested = _tested_clients(source, test, client_ids)
        tests = _read_part(f"{source}, test part", test, image, label, tested)
        arrays |= {f"test_{part}": values for part, values in tests.items()}
    examples = join_arrays(source, name, arrays, pixel_scale=pixel_scale)
    notes = _left_out_notes(client_ids, arrays["clients"], test)
    return examples._replace(notes=examples.notes + notes)


def _read_part(
    source: str, client_data: Any, image: str | None, label: str | None, client_ids: Sequence[str]
) -> dict[str, np.ndarray]:
    """Returns the `images`, `labels` and `clients` of a split, `(examples, ...)` each."""
    if not client_ids:
        # A ClientData without clients does not know the structure of its elements either.
        raise DatasetError(f"{source}: expected at least one client, received none. Give others.")
    structure = client_data.element_type_structure
    if isinstance(structure, Mapping):
        image = _field(source, "image", image, _IMAGE_FIELDS, structure)
        label = _field(source, "label", label, _LABEL_FIELDS, structure)
    elif isinstance(structure, tuple | list) and len(structure) == 2:
        image, label = 0, 1
    else:
        raise DatasetError(
            f"{source}: expected elements of an image and a label, received {structure}. Make them "
            "so with ClientData.preprocess."
        )
    if not all(hasattr(structure[part], "shape") for part in (image, label)):
        raise DatasetError(
            f"{source}: expected one image and one label in each element, received {structure}. "
            "Take them out of others with ClientData.preprocess."
        )
    batch_axes = structure[label].shape.rank
    image_axes = structure[image].shape.rank
    if batch_axes == 1 and image_axes:
        labels_of, *shape = structure[label].shape[0], *structure[image].shape
        if labels_of == 1 != shape[0]:
            # Some data sets wrap a single label in an axis of length 1, which is not a batch axis.
            batch_axes = 0
        elif labels_of is not None and (labels_of != shape[0] or shape[2:] in ([1], [3], [4])):
            raise DatasetError(
                f"{source}: expected a number or a text as the label of an image, received "
                f"{structure[label]} for {structure[image]}, such as a value for each class. Make "
                "them numbers with ClientData.preprocess and tf.argmax."
            )
    if batch_axes not in (0, 1) or image_axes is None or image_axes - batch_axes not in (2, 3):
        raise DatasetError(
            f"{source}: expected images of shape (height, width) or (height, width, channels) with "
            f"a label each, received {structure[image]} and {structure[label]}. Give them this "
            "shape with ClientData.preprocess."
        )
    images, labels, clients, room = [], [], [], 0
    for client in client_ids:
        dataset = client_data.create_tf_dataset_for_client(client)
        if int(dataset.cardinality()) == _ENDLESS:
            raise DatasetError(
                f"{source}: expected a data set with an end from client {client}, received one "
                "that repeats for ever. Leave repeat out of ClientData.preprocess."
            )
        batches = dataset if batch_axes else dataset.batch(_ELEMENTS)
        for element in _elements(source, client, batches):
            images.append(np.asarray(element[image]))
            labels.append(np.asarray(element[label]).reshape(len(images[-1])))
            clients.append(np.full(len(labels[-1]), client))
            room += images[-1].nbytes
            if room > MAX_IMAGE_BYTES:
                raise DatasetError(
                    f"{source}: expected at most {MAX_IMAGE_BYTES:,} bytes of images, received "
                    f"more by client {client}. Give fewer client_ids."
                )
    if not images:
        raise DatasetError(f"{source}: expected clients with examples, received none. Give others.")
    if len({values.shape[1:] for values in images}) > 1:
        shapes = list_names(sorted({str(values.shape[1:]) for values in images}))
        raise DatasetError(
            f"{source}: expected images of one shape, received {shapes}. Resize them with "
            "ClientData.preprocess."
        )
    return {
        "images": np.concatenate(images),
        "labels": _texts(np.concatenate(labels)),
        "clients": np.concatenate(clients),
    }


def _chosen_clients(source: str, train: Any, client_ids: Sequence[str] | None) -> list[str]:
    """Returns the clients to read, without repetitions."""
    known = _client_ids(source, train)
    # The ids of a ClientData are strings.
    chosen = list(dict.fromkeys(known if client_ids is None else map(str, client_ids)))
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise DatasetError(
            f"{source}: expected client_ids of the {len(known):,} clients {list_names(known)}, "
            f"received {list_names(unknown)}. Choose among them."
        )
    return chosen


def _tested_clients(source: str, test: Any, client_ids: Sequence[str]) -> list[str]:
    """Returns the clients of the test split that are also in the training split."""
    known, trained = _client_ids(source, test), set(client_ids)
    tested = [client for client in known if client in trained]
    if not tested:
        raise DatasetError(
            f"{source}: expected a test part with clients of the training part, "
            f"{list_names(client_ids)}, received {list_names(known) or 'none'}. Name them alike, "
            "or leave the test part out."
        )
    return tested


def _client_ids(source: str, client_data: Any) -> list[str]:
    if not hasattr(client_data, "client_ids"):
        raise DatasetError(
            f"{source}: expected a tff.simulation.datasets.ClientData, received "
            f"{type(client_data).__name__}. Make one with ClientData.from_clients_and_tf_fn, or "
            "use from_arrays."
        )
    return list(client_data.client_ids)


def _left_out_notes(
    client_ids: Sequence[str], with_examples: np.ndarray, test: Any | None
) -> tuple[str, ...]:
    """Returns notes about clients without training examples.

    Args:
      client_ids: The clients that were read.
      with_examples: Name of each training example's client.
      test: The `ClientData` of the test split, if any.
    """
    notes = []
    empty = sorted(set(client_ids) - set(with_examples.tolist()))
    if empty:
        verb = "has" if len(empty) == 1 else "have"
        notes.append(
            f"{len(empty):,} of {len(client_ids):,} clients {verb} no training examples: "
            f"{list_names(empty)}."
        )
    untrained = sorted(set(() if test is None else test.client_ids) - set(client_ids))
    if untrained:
        notes.append(
            "Clients of the test part that are not read, since they are none of the training "
            f"part's: {list_names(untrained)}."
        )
    return tuple(notes)


def _field(
    source: str, what: str, given: str | None, usual: Sequence[str], structure: Mapping[str, Any]
) -> str:
    names = [given] if given is not None else [name for name in usual if name in structure]
    if not names or names[0] not in structure:
        raise DatasetError(
            f"{source}: expected the name of a field as {what}, one of "
            f"{list_names(sorted(structure))}, received {given}. Give one of them."
        )
    return names[0]


def _elements(source: str, client: str, dataset: Any) -> Iterator[Any]:
    try:
        yield from dataset.as_numpy_iterator()
    # TensorFlow raises many kinds of errors for elements that cannot be read or batched.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DatasetError(
            f"{source}: expected images of one shape from client {client}, received elements that "
            f"cannot be read ({reason}). Resize them with ClientData.preprocess."
        ) from error


def _texts(labels: np.ndarray) -> np.ndarray:
    """Converts object arrays of bytes, TensorFlow's form of strings, to NumPy byte strings."""
    return labels.astype("S") if labels.dtype == object else labels
