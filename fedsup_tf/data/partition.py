"""Federated partitions of a centralized data set among clients.

`"iid"` assigns examples at random, `"shard"` gives each client a few classes (McMahan et al., arXiv
1602.05629, section 3), `"dirichlet"` draws the clients' shares of each class from a Dirichlet
distribution (Hsu et al., arXiv 1909.06335), `"contiguous"` gives each client consecutive examples.
In all of them each training example belongs to at most one client.

scikit-learn's digits are grouped by writer, so contiguous clients differ in their handwriting. The
boundaries between writers are unknown: a client may have examples of two writers.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.files.validation import check_choice, check_number, check_whole_number

PARTITIONS = ("iid", "shard", "dirichlet", "contiguous")
# The clients come with the data; not one of the partitions of this module.
NATURAL = "natural"
# For a beta outside these bounds NumPy's sampler is very slow or does not terminate.
_MIN_BETA, _MAX_BETA = 1e-6, 1e6
# Beyond this, the largest client would have everything.
_MAX_QUANTITY = 10.0
_QUANTITY_ADVICE = "Give 0 for amounts that are alike, 1 for uneven ones."


class ClientIndices(NamedTuple):
    """The examples of one client, as ascending indices into a data set's splits.

    Attributes:
      train: Indices into the training split, `(examples,)`, int64. No two clients share one.
      test: Indices into the test split, `(examples,)`, int64. Clients may share some.
    """

    train: np.ndarray
    test: np.ndarray


def partition(
    kind: str,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    clients: int,
    seed: int,
    *,
    classes_per_client: int | None = None,
    beta: float | None = None,
    quantity: float = 0.0,
    test_examples: int | None = None,
) -> list[ClientIndices]:
    """Divides the training split among clients, and gives each client a matching test set.

    A client's test set is drawn from the test split without replacement; the test sets of different
    clients may overlap. Its class frequencies are those of the client's training examples, rounded
    to whole examples. A `"contiguous"` client gets consecutive test examples instead, from the same
    relative position as its training examples.

    Args:
      kind: One of `PARTITIONS`.
      train_labels: Labels of the training split, `(examples,)`, whole numbers from 0.
      test_labels: Labels of the test split, `(examples,)`, whole numbers from 0.
      clients: Number of clients.
      seed: Seed of all random choices, at least 0.
      classes_per_client: For `"shard"`: number of shards per client. Each shard holds one class, so
        a client has at most this number of classes, and exactly this number wherever possible.
      beta: For `"dirichlet"`: concentration of the distribution. The smaller it is, the fewer
        classes a client has.
      quantity: Standard deviation of the logarithm of the clients' numbers of training examples; 0
        for equal numbers. `"iid"` and `"contiguous"` divide all examples in these proportions, with
        at least one per client. In the other partitions each client keeps the corresponding
        fraction of each of its classes (the largest client keeps everything), and the remaining
        examples are unused.
      test_examples: Number of test examples per client; `max(1, len(test_labels) // clients)` by
        default, for `"contiguous"` the client's share of the test split. A client has fewer if the
        test split has too few examples of one of its classes to keep the frequencies. Classes
        missing from the test split are ignored.

    Returns:
      The indices of each client. Every client has training examples; a client has no test examples
      if the test split has none of its classes.

    Raises:
      ValueError: If an argument is missing or no such partition exists.

    Example:
      >>> import numpy as np
      >>> from fedsup_tf import partition
      >>> labels = np.arange(100) % 10
      >>> clients = partition("shard", labels, labels, clients=5, seed=0, classes_per_client=2)
      >>> [len(client.train) for client in clients]
      [20, 20, 20, 20, 20]
      >>> {len(np.unique(labels[client.train])) for client in clients}
      {2}
    """
    check_choice(kind, "kind of partition", PARTITIONS)
    train_labels = _checked_labels("training", train_labels)
    test_labels = _checked_labels("test", test_labels)
    clients, seed = check_whole_number(clients, "clients", 1), check_whole_number(seed, "seed", 0)
    if test_examples is not None:
        test_examples = check_whole_number(test_examples, "test_examples", 1)
    if clients > len(train_labels):
        raise ValueError(
            f"Expected at most {len(train_labels)} clients, one for each training example, "
            f"received {clients}. Ask for fewer clients."
        )
    check_number(quantity, "quantity", minimum=0, maximum=_MAX_QUANTITY, advice=_QUANTITY_ADVICE)
    # Separate streams, so that the training sets do not depend on the size of the test sets.
    streams = (np.random.default_rng((seed, stream)) for stream in range(3))
    train_random, test_random, amount_random = streams
    # Relative to the largest amount; all equal for a quantity of 0.
    amounts = np.exp(quantity * amount_random.standard_normal(clients))
    amounts /= amounts.max()
    if kind == "contiguous":
        train = _pieces(np.arange(len(train_labels)), amounts, minimum=1)
        tests = [piece[:test_examples] for piece in _pieces(np.arange(len(test_labels)), amounts)]
        return [ClientIndices(*parts) for parts in zip(train, tests, strict=True)]
    if kind == "iid":
        train = _pieces(train_random.permutation(len(train_labels)), amounts, minimum=1)
    elif kind == "shard":
        name = "classes_per_client of a shard partition"
        classes_per_client = check_whole_number(classes_per_client, name, 1)
        train = _shards(train_labels, clients, classes_per_client, train_random)
    else:
        bounds = {"minimum": _MIN_BETA, "maximum": _MAX_BETA}
        advice = "Give 0.1 for clients of few classes, 100 for clients that are alike."
        check_number(beta, "beta of a Dirichlet partition", **bounds, advice=advice)
        train = _dirichlet(train_labels, clients, beta, train_random)
    if quantity and kind != "iid":
        train = [
            _keep_share(indices, train_labels[indices], amount, amount_random)
            for indices, amount in zip(train, amounts, strict=True)
        ]
    if test_examples is None:
        test_examples = max(1, len(test_labels) // clients)
    return [
        ClientIndices(
            np.sort(indices).astype(np.int64),
            draw_test_set(train_labels[indices], test_labels, test_examples, test_random),
        )
        for indices in train
    ]


def _pieces(indices: np.ndarray, amounts: np.ndarray, minimum: int = 0) -> list[np.ndarray]:
    """Cuts indices into pieces in proportion to `amounts`, each of at least `minimum` indices."""
    if (amounts == 1).all():
        return np.array_split(indices, len(amounts))
    sizes = minimum + _apportion(amounts, len(indices) - minimum * len(amounts))
    return np.split(indices, np.cumsum(sizes)[:-1])


def _keep_share(
    indices: np.ndarray, labels: np.ndarray, share: float, random: np.random.Generator
) -> np.ndarray:
    """Keeps a random share of a client's examples of each class, at least one per class."""
    return np.concatenate(
        [
            random.permutation(indices[labels == label])[
                : max(1, round(share * np.count_nonzero(labels == label)))
            ]
            for label in np.unique(labels)
        ]
    )


def label_counts(
    partition: Sequence[ClientIndices], train_labels: np.ndarray, classes: int
) -> np.ndarray:
    """Counts each client's training examples of each class.

    Args:
      partition: The indices of each client.
      train_labels: `(examples,)`, whole numbers from 0 to `classes - 1`.
      classes: Number of classes.

    Returns:
      `(clients, classes)`, int64.
    """
    labels = np.asarray(train_labels)
    if len(labels) and labels.max() >= classes:
        raise ValueError(
            f"Expected labels below {classes}, received {labels.max()}. Give the number of classes."
        )
    rows = [np.bincount(labels[client.train], minlength=classes) for client in partition]
    return np.array(rows, np.int64).reshape(len(partition), classes)


def _shards(
    labels: np.ndarray, clients: int, classes_per_client: int, random: np.random.Generator
) -> list[np.ndarray]:
    classes, sizes = np.unique(labels, return_counts=True)
    shards = clients * classes_per_client
    if not len(classes) <= shards <= len(labels):
        raise ValueError(
            f"Expected clients x classes_per_client from {len(classes)} (the classes) to "
            f"{len(labels)} (the training examples), received {clients} x {classes_per_client}. "
            "Change one of them."
        )
    shards_of_class = _count_shards(sizes, shards)
    pieces = [
        np.array_split(random.permutation(np.flatnonzero(labels == label)), count)
        for label, count in zip(classes, shards_of_class, strict=True)
    ]
    owned = _deal(shards_of_class, clients, classes_per_client, random)
    return [
        np.concatenate([pieces[i].pop() for i in np.flatnonzero(row) for _ in range(row[i])])
        for row in owned
    ]


def _count_shards(sizes: np.ndarray, shards: int) -> np.ndarray:
    """Computes the number of shards per class, at least 1, that minimizes the largest shard."""
    counts = np.ones(len(sizes), np.int64)
    queue = [(-size, index) for index, size in enumerate(sizes.tolist())]
    heapq.heapify(queue)
    for _ in range(shards - len(sizes)):
        index = queue[0][1]
        counts[index] += 1
        heapq.heapreplace(queue, (-sizes[index] / counts[index], index))
    return counts


def _deal(
    shards_of_class: np.ndarray, clients: int, classes_per_client: int, random: np.random.Generator
) -> np.ndarray:
    """Draws the number of shards of each class for each client, `(clients, classes)`.

    A client gets shards of distinct classes, unless a class has more shards than there are clients.
    """
    # First, a class with at least one shard per client goes to every client.
    owned = np.tile(shards_of_class // clients, (clients, 1))
    left = shards_of_class % clients
    free = classes_per_client - owned[0].sum()
    for client in random.permutation(clients):
        # `left` now sums to the free places of the `waiting` clients, and no entry exceeds
        # `waiting`. A class with exactly `waiting` shards must go to each of these clients:
        # otherwise its last shard would go to a client that already has one.
        waiting = left.sum() // free if free else 0
        forced = np.flatnonzero(left == waiting) if free else np.array([], np.int64)
        weights = np.where(left == waiting, 0, left)
        draws = free - len(forced)
        drawn = (
            random.choice(len(left), draws, replace=False, p=weights / weights.sum())
            if draws
            else np.array([], np.int64)
        )
        taken = np.concatenate([forced, drawn])
        owned[client, taken] += 1
        left[taken] -= 1
    return owned


def _dirichlet(
    labels: np.ndarray, clients: int, beta: float, random: np.random.Generator
) -> list[np.ndarray]:
    held: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        indices = random.permutation(np.flatnonzero(labels == label))
        shares = random.dirichlet(np.full(clients, beta))
        bounds = np.cumsum(_apportion(shares, len(indices)))[:-1]
        for examples, more in zip(held, np.split(indices, bounds), strict=True):
            examples.extend(more.tolist())
    sizes = np.array([len(examples) for examples in held])
    for empty in np.flatnonzero(sizes == 0):
        largest = sizes.argmax()
        held[empty].append(held[largest].pop(random.integers(sizes[largest])))
        sizes[[empty, largest]] += (1, -1)
    return [np.array(examples, np.int64) for examples in held]


def _apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Rounds shares of `total` to whole numbers by the largest-remainder method."""
    quotas = weights / weights.sum() * total
    counts = np.floor(quotas).astype(np.int64)
    rest = total - counts.sum()
    counts[np.argsort(counts - quotas, kind="stable")[:rest]] += 1
    return counts


def draw_test_set(
    own_labels: np.ndarray,
    test_labels: np.ndarray,
    examples: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Draws a client's test examples with the class frequencies of its training examples.

    Args:
      own_labels: Labels of the client's training examples.
      test_labels: Labels of the test split.
      examples: Number of test examples wanted.
      random: Source of randomness.

    Returns:
      Ascending indices into the test split, int64; empty if it has none of the client's classes.
    """
    classes = max(own_labels.max(initial=0), test_labels.max(initial=0)) + 1
    available = np.bincount(test_labels, minlength=classes)
    wanted = np.where(available > 0, np.bincount(own_labels, minlength=classes), 0)
    if not wanted.any():
        return np.array([], np.int64)
    held = wanted > 0
    # Largest test set that keeps the frequencies; at least 1, since no frequency exceeds 1.
    maximum = (available[held] * wanted.sum() // wanted[held]).min()
    counts = _apportion(wanted, min(examples, maximum))
    drawn = [
        random.choice(np.flatnonzero(test_labels == label), counts[label], replace=False)
        for label in np.flatnonzero(counts)
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def _checked_labels(split: str, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
        raise ValueError(
            f"Expected {split} labels of shape (examples,), whole numbers from 0, received shape "
            f"{labels.shape}, {labels.dtype}. Give the labels of a data set."
        )
    return labels
