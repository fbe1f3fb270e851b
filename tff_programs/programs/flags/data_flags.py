"""Flags that several programs share: the data set and its federated partition."""

import functools
import sys

from absl import flags

from fedsup_tf.data import datasets, partition

FLAGS = flags.FLAGS


@functools.cache
def define_data_flags() -> None:
    """Defines the flags of `load_federated_data_from_flags`; calling it again does nothing."""
    flags.DEFINE_enum("dataset", "digits", datasets.DATASETS, "Data set.")
    flags.DEFINE_string(
        "data_dir", None, "Folder of the data set's official archive, or the archive itself."
    )
    flags.DEFINE_list(
        "image_shape",
        None,
        "Pads images to height,width,channels, such as 32,32,3. The data set's own by default.",
    )
    flags.DEFINE_enum(
        "partition", "shard", partition.PARTITIONS, "How examples are spread over clients."
    )
    flags.DEFINE_integer("clients", 20, "Number of clients.", lower_bound=1)
    flags.DEFINE_integer(
        "classes_per_client", 5, "Classes a client holds, with --partition=shard.", lower_bound=1
    )
    flags.DEFINE_float(
        "beta", 0.1, "Concentration, with --partition=dirichlet: the smaller, the fewer classes."
    )
    flags.DEFINE_integer("seed", 0, "Decides everything that is random.", lower_bound=0)
    flags.register_validator(
        "image_shape",
        lambda values: values is None or (len(values) == 3 and all(map(str.isdecimal, values))),
        "Expected three whole numbers, height,width,channels, such as 32,32,3.",
    )


def load_federated_data_from_flags(
    image_shape: tuple[int, int, int] | None = None,
) -> tuple[datasets.ImageDataset, list[partition.ClientIndices]]:
    """Loads the data set that the flags name and divides it among clients.

    Args:
      image_shape: Of the images where --image_shape is not given; the data set's own by default.

    Returns:
      The data set and the indices of each client.

    Raises:
      SystemExit: With one line that says what is wrong with the flags or the data.
    """
    options = {"shard": "classes_per_client", "dirichlet": "beta"}
    chosen = {}
    for kind, option in options.items():
        if kind == FLAGS.partition:
            chosen[option] = FLAGS[option].value
        elif FLAGS[option].present:
            sys.exit(
                f"--{option} goes with --partition={kind}, received --partition="
                f"{FLAGS.partition}. Leave one of them out."
            )
    shape = image_shape
    if FLAGS.image_shape is not None:
        shape = tuple(map(int, FLAGS.image_shape))
    try:
        dataset = datasets.load_dataset(FLAGS.dataset, FLAGS.data_dir, shape)
        clients = partition.partition(
            FLAGS.partition,
            dataset.train_labels,
            dataset.test_labels,
            FLAGS.clients,
            FLAGS.seed,
            **chosen,
        )
    except ValueError as error:
        sys.exit(str(error))
    return dataset, clients
