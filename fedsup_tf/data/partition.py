"""Federated partitions of a central data set among clients.

`"iid"` deals examples at random, `"shard"` gives each client a few classes (McMahan et al., arXiv
1602.05629, section 3), `"dirichlet"` draws each class's shares of the clients from a Dirichlet
distribution (Hsu et al., arXiv 1909.06335), `"contiguous"` gives each client neighbouring examples.
In all of them each training example has at most one client.

scikit-learn's digits lie grouped by who wrote them, so that contiguous clients differ in their
handwriting. Where one writer ends and the next begins is not known: a client may have parts of two.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedsup_tf.files.validation import check_choice, check_number, check_whole_number

PARTITIONS = ("iid", "shard", "dirichlet", "contiguous")
# Each client's examples are those that the data says are its own: no partition of this module.
NATURAL = "natural"
# For a beta outside of these bounds NumPy's draws take very long or do not end.
_LEAST_BETA, _GREATEST_BETA = 1e-6, 1e6
# Beyond it the largest client has all.
_GREATEST_QUANTITY = 10.0
_QUANTITY_ADVICE = "Give 0 for amounts that are alike, 1 for uneven ones."


class ClientIndices(NamedTuple):
    """The examples of one client, as rising indices into a data set's splits.

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
    """Divides the training split among clients, and gives each a test set like its training set.

    Test sets are drawn from the one test split without replacement within a client; those of
    different clients may overlap. Their classes have the frequencies of the client's training
    examples to the nearest example. Those of `"contiguous"` are neighbours in the test split, at
    the same place as the client's training examples in theirs.

    Args:
      kind: One of `PARTITIONS`.
      train_labels: Labels of the training split, `(examples,)`, whole numbers from 0.
      test_labels: Labels of the test split, `(examples,)`, whole numbers from 0.
      clients: Number of clients.
      seed: Seed of all random choices, from 0.
      classes_per_client: For `"shard"`: number of shards of a client. A shard is of one class, so
        that a client has at most that many classes, and as many wherever that is possible.
      beta: For `"dirichlet"`: concentration of the distribution. The smaller it is, the fewer
        classes a client has.
      quantity: Standard deviation of the logarithm of the clients' amounts of training examples, 0
        for amounts that are alike. `"iid"` and `"contiguous"` deal all examples in such amounts,
        each client at least one; of the others' clients each keeps so much of each of its classes,
        the largest all, and what is left is not used.
      test_examples: Test examples of a client; `max(1, len(test_labels) // clients)` by default.
        A client has fewer where the test split has too few of one of its classes to keep the
        frequencies. Classes that the test split lacks are left out.

    Returns:
      The indices of each client. No client is without training examples; one whose classes the test
      split lacks is without test examples.

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
    check_number(quantity, "quantity", least=0, most=_GREATEST_QUANTITY, advice=_QUANTITY_ADVICE)
    # Streams of their own, so that the training sets do not depend on the size of the test sets.
    streams = (np.random.default_rng((seed, stream)) for stream in range(3))
    train_random, test_random, amount_random = streams
    # Alike for a quantity of 0: amounts relative to the largest.
    amounts = np.exp(quantity * amount_random.standard_normal(clients))
    amounts /= amounts.max()
    if kind == "contiguous":
        train = _pieces(np.arange(len(train_labels)), amounts, least=1)
        tests = [piece[:test_examples] for piece in _pieces(np.arange(len(test_labels)), amounts)]
        return [ClientIndices(*parts) for parts in zip(train, tests, strict=True)]
    if kind == "iid":
        train = _pieces(train_random.permutation(len(train_labels)), amounts, least=1)
    elif kind == "shard":
        name = "classes_per_client of a shard partition"
        classes_per_client = check_whole_number(classes_per_client, name, 1)
        train = _shards(train_labels, clients, classes_per_client, train_random)
    else:
        bounds = {"least": _LEAST_BETA, "most": _GREATEST_BETA}
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


def _pieces(indices: np.ndarray, amounts: np.ndarray, least: int = 0) -> list[np.ndarray]:
    """Cuts indices into one piece for each amount, in these proportions, of at least `least`."""
    if (amounts == 1).all():
        return np.array_split(indices, len(amounts))
    sizes = least + _apportion(amounts, len(indices) - least * len(amounts))
    return np.split(indices, np.cumsum(sizes)[:-1])


def _keep_share(
    indices: np.ndarray, labels: np.ndarray, share: float, random: np.random.Generator
) -> np.ndarray:
    """Keeps a share of a client's examples of each class, at least one."""
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
    """Counts the training examples that each client has of each class.

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
    """Computes the shards of each class, at least 1, that make the largest shard smallest."""
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
    """Draws how many shards of each class each client gets: `(clients, classes)`.

    A client gets shards of distinct classes, unless a class has more shards than there are clients.
    """
    # A class with as many shards as clients or more goes to every client first.
    owned = np.tile(shards_of_class // clients, (clients, 1))
    left = shards_of_class % clients
    free = classes_per_client - owned[0].sum()
    for client in random.permutation(clients):
        # Now `left` adds up to the free places of the `waiting` clients, and none of it exceeds
        # `waiting`. A class with that many must go to each of them, or its last shard would come
        # to a client that already has one.
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
    """Draws a client's test examples, of which the classes are as frequent as in its training.

    Args:
      own_labels: Labels of the client's training examples.
      test_labels: Labels of the test split.
      examples: Number of test examples wanted.
      random: Source of the draws.

    Returns:
      Rising indices into the test split, int64; none if it has none of the client's classes.
    """
    classes = max(own_labels.max(initial=0), test_labels.max(initial=0)) + 1
    available = np.bincount(test_labels, minlength=classes)
    wanted = np.where(available > 0, np.bincount(own_labels, minlength=classes), 0)
    if not wanted.any():
        return np.array([], np.int64)
    held = wanted > 0
    # The most that keeps the frequencies, in whole numbers; at least 1, as no frequency exceeds 1.
    most = (available[held] * wanted.sum() // wanted[held]).min()
    counts = _apportion(wanted, min(examples, most))
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
