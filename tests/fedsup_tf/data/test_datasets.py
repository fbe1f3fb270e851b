"""Tests of datasets from tiny archives in the official formats, damaged ones, preprocessing."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fedsup_tf.data import archives, datasets
from fedsup_tf.data.datasets import DatasetError, load_dataset
from fedsup_tf.data.preprocessing import Preprocessing

RANDOM = np.random.default_rng(0)


def write_idx(path, array, announced=None):
    shape = announced or array.shape
    data = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def fashion(tmp_path):
    """Returns a folder with the four files, and the arrays in them."""
    arrays = {}
    for split, examples in (("train", 20), ("t10k", 10)):
        images = RANDOM.integers(0, 256, (examples, 28, 28), np.uint8)
        labels = (np.arange(examples) % 10).astype(np.uint8)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", labels)
        arrays[split] = images, labels
    return tmp_path, arrays


def cifar_files(layout, per_file=4):
    """Returns the content of each file, and the images and labels of the first one."""
    files, first = {}, None
    for name in (*layout.train, layout.test):
        images = RANDOM.integers(0, 256, (per_file, 32, 32, 3), np.uint8)
        labels = RANDOM.integers(0, layout.classes, (per_file, 1), np.uint8)
        coarse = np.full((per_file, layout.label_bytes - 1), 255, np.uint8)
        planes = images.transpose(0, 3, 1, 2).reshape(per_file, -1)
        files[name] = np.concatenate([coarse, labels, planes], axis=1).tobytes()
        first = first or (images, labels[:, 0])
    files[layout.names] = "".join(f"class{i}\n" for i in range(layout.classes)).encode() + b"\n"
    return files, first


def write_tar(path, folder, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


LAYOUTS = {"cifar10": archives.CIFAR10, "cifar100": archives.CIFAR100}


def pathmnist_arrays(**changes):
    arrays = {}
    for split, examples in (("train", 9), ("val", 2), ("test", 5)):
        arrays[f"{split}_images"] = RANDOM.integers(0, 256, (examples, 28, 28, 3), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(examples) % 9).astype(np.uint8)[:, np.newaxis]
    return {key: array for key, array in (arrays | changes).items() if array is not None}


def assert_one_sentence(error, file):
    message = str(error.value)
    assert file in message
    assert "\n" not in message
    assert ": expected " in message
    assert ", received " in message
    assert "; " in message


# Loading.


def test_digits_are_split_by_class():
    dataset = load_dataset("digits")
    assert dataset.train_images.shape == (1438, 8, 8, 1)
    assert dataset.test_images.shape == (359, 8, 8, 1)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int32
    assert dataset.train_images.max() == dataset.test_images.max() == 16
    share = np.bincount(dataset.test_labels) / np.bincount(dataset.train_labels)
    np.testing.assert_allclose(share, 0.25, atol=0.01)
    assert dataset.class_names == tuple("0123456789")


def test_digits_lose_nothing():
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits")
    ours = np.concatenate([dataset.train_images, dataset.test_images]).reshape(-1, 64)
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    theirs = load_digits()
    rows = sorted(map(tuple, np.column_stack([ours, labels]).tolist()))
    assert rows == sorted(map(tuple, np.column_stack([theirs.data, theirs.target]).tolist()))


def installed_fashion_mnist():
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("Debian's dataset-fashion-mnist is not installed.")
    return load_dataset("fashion_mnist")


def test_fashion_mnist_of_debian():
    dataset = installed_fashion_mnist()
    assert dataset.train_images.shape == (60000, 28, 28, 1)
    assert np.bincount(dataset.train_labels).tolist() == [6000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10


@pytest.mark.slow
@pytest.mark.parametrize("load", [lambda: load_dataset("digits"), installed_fashion_mnist])
def test_constants_are_those_of_the_training_split(load):
    dataset = load()
    pixels = dataset.train_images.reshape(-1)
    assert dataset.preprocessing.mean == pytest.approx([pixels.mean(dtype=np.float64)], abs=1e-4)
    deviation = dataset.preprocessing.standard_deviation
    assert deviation == pytest.approx([pixels.std(dtype=np.float64)], abs=1e-4)


def test_fashion_mnist_reads_its_files(fashion):
    folder, arrays = fashion
    dataset = load_dataset("fashion_mnist", folder)
    np.testing.assert_array_equal(dataset.train_images[..., 0], arrays["train"][0])
    np.testing.assert_array_equal(dataset.train_labels, arrays["train"][1])
    np.testing.assert_array_equal(dataset.test_images[..., 0], arrays["t10k"][0])
    np.testing.assert_array_equal(dataset.test_labels, arrays["t10k"][1])
    assert len(dataset.class_names) == 10


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("given", ["archive", "its folder", "extracted", "parent of extracted"])
def test_cifar_reads_its_files(tmp_path, name, given):
    layout = LAYOUTS[name]
    files, (images, labels) = cifar_files(layout)
    archive = tmp_path / layout.archive
    if given in ("archive", "its folder"):
        write_tar(archive, layout.folder, files)
    else:
        (tmp_path / layout.folder).mkdir()
        for file, content in files.items():
            (tmp_path / layout.folder / file).write_bytes(content)
    place = {"archive": archive, "extracted": tmp_path / layout.folder}.get(given, tmp_path)
    dataset = load_dataset(name, str(place))
    assert len(dataset.train_images) == 4 * len(layout.train)
    np.testing.assert_array_equal(dataset.train_images[:4], images)
    np.testing.assert_array_equal(dataset.train_labels[:4], labels)
    assert dataset.test_images.shape == (4, 32, 32, 3)
    assert dataset.class_names[-1] == f"class{layout.classes - 1}"
    assert dataset.preprocessing.crop_padding == 4
    assert dataset.preprocessing.flip


@pytest.mark.parametrize("file", ["", "pathmnist.npz"])
def test_pathmnist_reads_its_file(tmp_path, file):
    arrays = pathmnist_arrays()
    np.savez_compressed(tmp_path / "pathmnist.npz", **arrays)
    dataset = load_dataset("pathmnist", tmp_path / file)
    np.testing.assert_array_equal(dataset.train_images, arrays["train_images"])
    np.testing.assert_array_equal(dataset.test_labels, arrays["test_labels"][:, 0])
    assert dataset.preprocessing.mean == (127.5,) * 3


def test_downloads_are_read_like_files(tmp_path, monkeypatch):
    files, (images, _) = cifar_files(archives.CIFAR10)

    def get_file(name, origin, md5_hash):
        assert origin.endswith(name)
        assert len(md5_hash) == 32
        write_tar(tmp_path / name, archives.CIFAR10.folder, files)
        return str(tmp_path / name)

    monkeypatch.setattr(tf.keras.utils, "get_file", get_file)
    np.testing.assert_array_equal(load_dataset("cifar10").train_images[:4], images)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "pathmnist", "fashion_mnist"])
def test_a_failed_download_is_one_sentence(name, monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise Exception("URL fetch failure on there: None\nno route to host")

    monkeypatch.setattr(tf.keras.utils, "get_file", fail)
    monkeypatch.setattr(tf.keras.datasets.fashion_mnist, "load_data", fail)
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    with pytest.raises(DatasetError, match="URL fetch failure") as error:
        load_dataset(name)
    assert_one_sentence(error, name.removesuffix("_mnist")[:5])


# Shapes.


def test_images_are_put_in_the_middle_of_zeros():
    dataset = load_dataset("digits")
    placed = load_dataset("digits", image_shape=(32, 17, 3))
    assert placed.train_images.shape == (1438, 32, 17, 3)
    assert placed.train_images.dtype == np.uint8
    middle = placed.test_images[:, 12:20, 4:12]
    np.testing.assert_array_equal(middle, np.repeat(dataset.test_images, 3, axis=-1))
    assert placed.test_images.sum() == middle.sum(dtype=np.int64)
    assert placed.preprocessing.mean == dataset.preprocessing.mean * 3
    assert placed.preprocessing.standard_deviation == dataset.preprocessing.standard_deviation * 3


def test_a_data_sets_own_shape_changes_nothing():
    np.testing.assert_array_equal(
        load_dataset("digits", image_shape=(8, 8, 1)).train_images,
        load_dataset("digits").train_images,
    )


@pytest.mark.parametrize(
    "shape", [(7, 8, 1), (8, 7, 1), (8, 8, 2), (8, 8), (8, 8, 1, 1), (8, 8, 0)]
)
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"at least 8 x 8 with 1 or 3 channels, received \("):
        load_dataset("digits", image_shape=shape)


def test_colours_are_not_made_grey(tmp_path):
    np.savez(tmp_path / "pathmnist.npz", **pathmnist_arrays())
    with pytest.raises(ValueError, match="at least 28 x 28 with 3 channels"):
        load_dataset("pathmnist", tmp_path, image_shape=(32, 32, 1))


# Damaged files.


def test_unknown_data_set():
    with pytest.raises(ValueError, match=r"data set to be one of digits, .*received 'mnist'"):
        load_dataset("mnist")


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100", "pathmnist"])
def test_missing_files(tmp_path, name):
    with pytest.raises(DatasetError) as error:
        load_dataset(name, tmp_path)
    assert_one_sentence(error, str(tmp_path))
    with pytest.raises(DatasetError, match="nothing at this path"):
        load_dataset(name, tmp_path / "none")


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"


def truncate(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])


def inside_gzip(path, change):
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        (IMAGES, lambda path: path.write_bytes(b"not a gzip"), "a gzip file"),
        (IMAGES, lambda path: truncate(path, 0.5), "a gzip file"),
        (IMAGES, lambda path: truncate(path, 0), "starts with 00000803"),
        (IMAGES, lambda path: inside_gzip(path, lambda data: data[:-1]), "15,679"),
        (IMAGES, lambda path: inside_gzip(path, lambda data: data + b"0"), "received more"),
        (IMAGES, lambda path: inside_gzip(path, lambda data: data[:9]), "its sizes"),
        (IMAGES, lambda path: write_idx(path, np.zeros((20, 7, 7), np.uint8)), "28 x 28 pixels"),
        (IMAGES, lambda path: write_idx(path, np.zeros((20, 28), np.uint8)), "00000803"),
        (LABELS, lambda path: truncate(path, 0), "an empty file"),
        (LABELS, lambda path: truncate(path, 0.3), "starts with 00000801"),
        (LABELS, lambda path: truncate(path, 0.9), "10 bytes after the header"),
        (LABELS, lambda path: path.write_bytes(b"\0" * 100), "received 0000"),
        (LABELS, lambda path: write_idx(path, np.zeros(9, np.uint8)), "10 images and 9 labels"),
        (LABELS, lambda path: write_idx(path, np.full(10, 10, np.uint8)), "labels from 10 to 10"),
        (LABELS, lambda path: write_idx(path, np.zeros(9, np.uint8), (2**32 - 1,)), "4,294,967"),
        (LABELS, lambda path: (path.unlink(), path.mkdir()), "can be read"),
        (LABELS, lambda path: path.unlink(), "neither"),
    ],
)
def test_damaged_idx_files(fashion, file, damage, says):
    folder, _ = fashion
    damage(folder / file)
    with pytest.raises(DatasetError, match=says) as error:
        load_dataset("fashion_mnist", folder)
    assert_one_sentence(error, str(folder))


def test_idx_files_without_examples(fashion):
    folder, _ = fashion
    write_idx(folder / IMAGES, np.zeros((0, 28, 28), np.uint8))
    write_idx(folder / "train-labels-idx1-ubyte", np.zeros(0, np.uint8))
    with pytest.raises(DatasetError, match="0 images and 0 labels"):
        load_dataset("fashion_mnist", folder)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("data_batch_2.bin", b"", "received 0 bytes"),
        ("data_batch_2.bin", bytes(3072), "records of 3,073 bytes"),
        ("data_batch_2.bin", bytes(3073), r"equal size, received \[4, 1, 4, 4, 4\]"),
        ("test_batch.bin", bytes([10]) * 3073, "labels from 10 to 10"),
        ("test_batch.bin", None, "cifar-10-batches-bin/test_batch.bin in it, received none"),
        ("batches.meta.txt", b"cat\ndog\n", "10 class names, received 2"),
    ],
)
def test_damaged_cifar_files(tmp_path, file, content, says):
    files, _ = cifar_files(archives.CIFAR10)
    files[file] = content
    files = {name: content for name, content in files.items() if content is not None}
    archive = tmp_path / archives.CIFAR10.archive
    write_tar(archive, archives.CIFAR10.folder, files)
    with pytest.raises(DatasetError, match=says) as error:
        load_dataset("cifar10", archive)
    assert_one_sentence(error, str(archive))


def test_a_folder_with_a_cifar_file_missing(tmp_path):
    files, _ = cifar_files(archives.CIFAR10)
    for name in list(files)[:-2]:
        (tmp_path / name).write_bytes(files[name])
    with pytest.raises(DatasetError, match="received none") as error:
        load_dataset("cifar10", tmp_path)
    assert_one_sentence(error, "test_batch.bin")


@pytest.mark.parametrize("kept", [0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_truncated_cifar_archives(tmp_path, kept):
    files, _ = cifar_files(archives.CIFAR10)
    archive = tmp_path / archives.CIFAR10.archive
    write_tar(archive, archives.CIFAR10.folder, files)
    truncate(archive, kept)
    with pytest.raises(DatasetError, match=r"expected a complete \.tar\.gz") as error:
        load_dataset("cifar10", tmp_path)
    assert_one_sentence(error, str(archive))


@pytest.mark.parametrize(
    "content", [b"no archive", gzip.compress(b"no tar" * 999)], ids=["bytes", "gzip"]
)
def test_files_that_are_no_archive(tmp_path, content):
    (tmp_path / "archive").write_bytes(content)
    for name in ("cifar10", "cifar100", "pathmnist"):
        with pytest.raises(DatasetError) as error:
            load_dataset(name, tmp_path / "archive")
        assert_one_sentence(error, str(tmp_path / "archive"))


def test_links_in_an_archive_are_not_followed(tmp_path):
    files, _ = cifar_files(archives.CIFAR10)
    content = files.pop("test_batch.bin")
    (tmp_path / "outside.bin").write_bytes(content)
    archive = tmp_path / archives.CIFAR10.archive
    write_tar(archive, archives.CIFAR10.folder, files)
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{archives.CIFAR10.folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo(f"{archives.CIFAR10.folder}/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside.bin")
        tar.addfile(link)
    with pytest.raises(DatasetError, match="received none"):
        load_dataset("cifar10", archive)


def test_an_enormous_file_in_an_archive_is_not_read(tmp_path, monkeypatch):
    files, _ = cifar_files(archives.CIFAR10)
    archive = tmp_path / archives.CIFAR10.archive
    write_tar(archive, archives.CIFAR10.folder, files)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 4 * 3073 - 1)
    with pytest.raises(DatasetError, match="at most 12,291 bytes, received 12,292"):
        load_dataset("cifar10", archive)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test_labels": None}, "test_images and test_labels"),
        ({"train_images": np.zeros((9, 28, 28, 3), np.float32)}, "float32"),
        ({"train_images": np.zeros((9, 28, 28), np.uint8)}, r"\(9, 28, 28\)"),
        ({"train_labels": np.zeros((9, 1), np.float32)}, "float32"),
        ({"train_labels": np.zeros((9, 2), np.uint8)}, r"\(9, 2\)"),
        ({"train_labels": np.zeros((8, 1), np.uint8)}, "9 images and 8 labels"),
        ({"train_labels": np.full((9, 1), 9, np.uint8)}, "labels from 9 to 9"),
        ({"train_labels": np.full((9, 1), -1, np.int8)}, "labels from -1 to -1"),
        ({"train_labels": np.array([[None]] * 9)}, "allow_pickle"),
        ({"train_labels": np.uint8(0)}, r"\(\), uint8"),
        ({"train_images": np.uint8(0)}, r"\(\), uint8"),
    ],
)
def test_wrong_arrays_of_pathmnist(tmp_path, changes, says):
    np.savez(tmp_path / "pathmnist.npz", **pathmnist_arrays(**changes))
    with pytest.raises(DatasetError, match=says) as error:
        load_dataset("pathmnist", tmp_path)
    assert_one_sentence(error, "pathmnist.npz")


def test_damaged_files_of_pathmnist(tmp_path):
    path = tmp_path / "pathmnist.npz"
    np.savez(path, **pathmnist_arrays())
    whole = path.read_bytes()
    damaged = [whole[: len(whole) * part // 8] for part in range(8)]
    for position in range(0, len(whole), len(whole) // 40):
        damaged.append(whole[:position] + bytes(8) + whole[position + 8 :])
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            load_dataset("pathmnist", path)
        except DatasetError:
            refused += 1
    # A change may affect the validation split, which is not read.
    assert refused >= 8 + 30


def test_one_bare_array_is_not_pathmnist(tmp_path):
    with (tmp_path / "pathmnist.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DatasetError, match="received one array"):
        load_dataset("pathmnist", tmp_path)


def test_sound_archives_of_other_data_sets_are_told_how_to_be_used(tmp_path):
    for split, labels in (("train", [1, 26]), ("t10k", [2])):
        images = RANDOM.integers(0, 256, (len(labels), 28, 28), np.uint8)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", np.array(labels, np.uint8))
    told = "received labels from 1 to 26; .*give its folder as own data, --dataset=FOLDER"
    with pytest.raises(DatasetError, match=told):
        load_dataset("fashion_mnist", tmp_path)
    write_idx(tmp_path / "train-images-idx3-ubyte", images[:, :20, :8])
    with pytest.raises(DatasetError, match=r"received 20 x 8; .* own data, --dataset=FOLDER"):
        load_dataset("fashion_mnist", tmp_path)
    others = [
        pathmnist_arrays(train_images=np.zeros((9, 28, 28), np.uint8)),
        pathmnist_arrays(train_images=np.zeros((9, 28, 28, 3), np.uint16)),
        pathmnist_arrays(test_labels=np.full((5, 1), 9)),
    ]
    for arrays in others:
        np.savez(tmp_path / "pathmnist.npz", **arrays)
        with pytest.raises(DatasetError, match=r"to use it as it is, .*--dataset=FILE\.npz"):
            load_dataset("pathmnist", tmp_path)
    # The error names an empty array.
    np.savez(
        tmp_path / "pathmnist.npz",
        **pathmnist_arrays(test_images=np.zeros((0, 28, 28, 3), np.uint8)),
    )
    with pytest.raises(DatasetError, match=r"test_images and test_labels in .*received 0 images"):
        load_dataset("pathmnist", tmp_path)


# Preprocessing.


def test_normalization():
    preprocessing = Preprocessing((1.0, 2.0, 3.0), (2.0, 4.0, 5.0))
    images = RANDOM.integers(0, 256, (4, 5, 6, 3), np.uint8)
    normalized = preprocessing.normalize(images)
    assert normalized.dtype == tf.float32
    expected = (images.astype(np.float64) - [1, 2, 3]) / [2, 4, 5]
    np.testing.assert_allclose(normalized, expected, rtol=1e-6, atol=1e-6)


def test_normalization_is_made_of_tflite_builtins():
    preprocessing = Preprocessing((1.0,), (2.0,))
    function = tf.function(
        preprocessing.normalize, input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.uint8)]
    ).get_concrete_function()
    operations = {operation.type for operation in function.graph.get_operations()}
    computing = operations - {"Placeholder", "Const", "Identity", "NoOp"}
    assert computing <= {"Cast", "Reshape", "Sub", "Mul"}
    assert function.structured_outputs.shape.as_list() == [None, 8, 8, 1]


def test_normalization_refuses_other_channels():
    with pytest.raises(ValueError, match="Expected images of 3 channels"):
        Preprocessing((1.0,) * 3, (2.0,) * 3).normalize(np.zeros((1, 4, 4, 1), np.uint8))


def numbered(batch, height=6, width=7, channels=2):
    """Returns images whose values all differ and are not 0, to see how they move."""
    pixels = np.arange(1, 1 + batch * height * width * channels, dtype=np.float32)
    return pixels.reshape(batch, height, width, channels)


def where_from(image, source, padding):
    """Returns each (row, column, flipped) whose crop of `source` equals `image`."""
    padded = np.pad(source, ((padding, padding), (padding, padding), (0, 0)))
    height, width, _ = source.shape
    return [
        (row, column, flipped)
        for row in range(2 * padding + 1)
        for column in range(2 * padding + 1)
        for flipped in (False, True)
        if np.array_equal(
            padded[row : row + height, column : column + width][:, :: -1 if flipped else 1], image
        )
    ]


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (2, True)])
def test_augmented_images_are_crops_and_flips(padding, flip):
    preprocessing = Preprocessing((0.0,) * 2, (1.0,) * 2, padding, flip)
    images = numbered(200)
    augmented = preprocessing.augment(images, tf.constant([3, 4])).numpy()
    assert augmented.shape == images.shape
    assert augmented.dtype == images.dtype
    drawn = [where_from(*pair, padding) for pair in zip(augmented, images, strict=True)]
    assert all(len(found) == 1 for found in drawn)
    drawn = [found[0] for found in drawn]
    rows, columns, flips = (np.array(values) for values in zip(*drawn, strict=True))
    # Offsets and flips are drawn uniformly and independently.
    for values in (rows, columns):
        counts = np.bincount(values, minlength=2 * padding + 1)
        assert np.abs(counts / 200 - 1 / (2 * padding + 1)).max() < 0.15
    assert (0.35 < flips.mean() < 0.65) if flip else not flips.any()
    combinations = (2 * padding + 1) ** 2 * (2 if flip else 1)
    assert len(set(drawn)) == combinations


def test_augmentation_is_its_seed():
    preprocessing = Preprocessing((0.0,) * 2, (1.0,) * 2, 2, flip=True)
    images = numbered(16)
    first = preprocessing.augment(images, tf.constant([1, 2]))
    np.testing.assert_array_equal(first, preprocessing.augment(images, tf.constant([1, 2])))
    assert np.any(first != preprocessing.augment(images, tf.constant([1, 3])))
    assert np.any(first != preprocessing.augment(images, tf.constant([2, 2])))


def test_augmentation_in_a_graph_of_unknown_batch():
    preprocessing = Preprocessing((0.0,) * 2, (1.0,) * 2, 2, flip=True)
    signature = [tf.TensorSpec((None, 6, 7, 2)), tf.TensorSpec((2,), tf.int32)]
    function = tf.function(preprocessing.augment, input_signature=signature)
    assert function.get_concrete_function().structured_outputs.shape.as_list() == [None, 6, 7, 2]
    for batch in (0, 1, 5):
        images, seed = numbered(batch), tf.constant([7, batch])
        np.testing.assert_array_equal(function(images, seed), preprocessing.augment(images, seed))


def test_nothing_to_augment():
    images = tf.constant(numbered(2))
    assert Preprocessing((0.0,), (1.0,)).augment(images, tf.constant([1, 2])) is images


def test_preprocessing_travels_as_json():
    for preprocessing in (
        Preprocessing((1.0,), (2.5,)),
        Preprocessing((0.1, 1 / 3, 1e-9), (1.0, 2.0, 3.0), 4, flip=True),
        Preprocessing((1.0,), (2.5,), greatest_pixel=16),
    ):
        text = preprocessing.to_json()
        assert "\n" not in text
        assert Preprocessing.from_json(text) == preprocessing
    assert Preprocessing([1, 2], [3, 4]) == Preprocessing((1.0, 2.0), (3.0, 4.0))
    assert hash(Preprocessing([1], [3])) == hash(Preprocessing((1.0,), (3.0,)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        '{"mean": [1], "standard_deviation": [1], "crop_padding": 0}',
        '{"mean": [1], "standard_deviation": [1], "crop_padding": 0, "flip": false, "more": 1}',
        '{"mean": [], "standard_deviation": [], "crop_padding": 0, "flip": false}',
        '{"mean": "1", "standard_deviation": [1], "crop_padding": 0, "flip": false}',
        '{"mean": [null], "standard_deviation": [1], "crop_padding": 0, "flip": false}',
        '{"mean": [NaN], "standard_deviation": [1], "crop_padding": 0, "flip": false}',
        '{"mean": [1, 2], "standard_deviation": [1], "crop_padding": 0, "flip": false}',
        '{"mean": [1], "standard_deviation": [0], "crop_padding": 0, "flip": false}',
        '{"mean": [1], "standard_deviation": [Infinity], "crop_padding": 0, "flip": false}',
        '{"mean": [1], "standard_deviation": [1], "crop_padding": -1, "flip": false}',
        '{"mean": [1], "standard_deviation": [1], "crop_padding": 1.5, "flip": false}',
        '{"mean": [1], "standard_deviation": [1], "crop_padding": 0, "flip": 1}',
        f'{{"mean": [1{"0" * 400}], "standard_deviation": [1], "crop_padding": 0, "flip": false}}',
        '{"mean": [1], "mean": [1], "standard_deviation": [1], "crop_padding": 0, "flip": false}',
    ],
)
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="Preprocessing: expected"):
        Preprocessing.from_json(text)
