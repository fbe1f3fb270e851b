"""Tests of own data in folders, tables and arrays: layouts, labels, clients, parts, refusals."""

import os

import numpy as np
import pytest
from PIL import Image

from fedsup_tf.data import examples as data_examples
from fedsup_tf.data import picture_examples
from fedsup_tf.data.channel_statistics import channel_sums, mean_and_deviation
from fedsup_tf.data.class_labels import number_labels
from fedsup_tf.data.data_settings import DataSettings
from fedsup_tf.data.datasets import DatasetError
from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.data.preprocessing import Preprocessing

SHAPE = (4, 4, 1)


def draw(path, value, shape=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def values(images):
    """Returns the value of each image that `draw` drew."""
    return images[:, 0, 0, 0].tolist()


# Folders.


def test_a_folder_of_classes_is_one_client(tmp_path):
    for label, begin in (("cat", 0), ("dog", 100)):
        for number in range(5):
            draw(tmp_path / "pets" / label / f"{number}.png", begin + number)
    data = FederatedDataset.from_folder(tmp_path / "pets")
    assert data.name == "pets"
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == SHAPE
    assert (data.train_sizes, data.test_sizes) == ((8,), (2,))
    assert not data.notes
    images, labels = data.train_examples(0)
    assert [int(value >= 100) for value in values(images)] == labels.tolist()
    again = FederatedDataset.from_folder(tmp_path / "pets")
    assert again.fingerprint() == data.fingerprint()
    other = FederatedDataset.from_folder(tmp_path / "pets", seed=1)
    assert other.fingerprint() != data.fingerprint()


def test_a_folder_of_clients_keeps_who_has_what(tmp_path):
    for client, begin in (("ann", 0), ("Bob Ö", 100)):
        for label in ("1", "2", "10"):
            for number in range(4):
                draw(tmp_path / client / label / f"{number}.png", begin + 10 * int(label) + number)
    data = FederatedDataset.from_folder(tmp_path)
    assert data.client_names == ("Bob Ö", "ann")
    # Numbers are sorted as numbers.
    assert data.class_names == ("1", "2", "10")
    for client, begin in ((0, 100), (1, 0)):
        images, labels = data.train_examples(client)
        test_images, test_labels = data.test_examples(client)
        assert np.bincount(labels).tolist() == [3, 3, 3]
        assert np.bincount(test_labels).tolist() == [1, 1, 1]
        for value, label in zip(
            values(images) + values(test_images), [*labels, *test_labels], strict=True
        ):
            assert (value - begin) // 10 == int(data.class_names[label])


def test_train_and_test_folders_are_the_parts(tmp_path):
    for part, count in (("train", 3), ("Test", 2)):
        for label in ("a", "b"):
            for number in range(count):
                draw(tmp_path / part / label / f"{number}.png", number)
    data = FederatedDataset.from_folder(tmp_path)
    assert (data.train_sizes, data.test_sizes) == ((6,), (4,))
    # A validation part in addition to both is not used, which a note says.
    draw(tmp_path / "val" / "a" / "0.png", 1)
    data = FederatedDataset.from_folder(tmp_path)
    assert data.test_sizes == (4,)
    assert data.notes == ("1 of 11 files is not used (1 .png): val/a/0.png.",)


def test_nobodys_test_examples_are_dealt_by_classes(tmp_path):
    for client, label in (("x", "a"), ("y", "b")):
        for number in range(4):
            draw(tmp_path / "train" / client / label / f"{number}.png", number)
    for label in ("a", "b"):
        for number in range(3):
            draw(tmp_path / "test" / label / f"{number}.png", number)
    data = FederatedDataset.from_folder(tmp_path)
    assert data.train_sizes == (4, 4)
    assert [set(data.test_examples(client)[1].tolist()) for client in (0, 1)] == [{0}, {1}]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("Training", "testing"), ((6,), (6,))),
        (("train", "EVAL"), ((6,), (6,))),
        (("Train", "Validation"), ((6,), (6,))),
        (("TRAIN", "Dev"), ((6,), (6,))),
        # There is no test part.
        (("train",), ((4,), (2,))),
    ],
)
def test_folders_that_name_parts_are_no_clients(tmp_path, parts, expected):
    for part in parts:
        for label in ("a", "b"):
            for number in range(3):
                draw(tmp_path / part / label / f"{number}.png", number)
    # macOS adds such files to archives.
    draw(tmp_path / "__MACOSX" / "train" / "._0.png", 0)
    data = FederatedDataset.from_folder(tmp_path)
    assert (data.train_sizes, data.test_sizes) == expected
    assert data.client_names == ("0",)
    assert not data.notes


def test_names_are_the_same_however_a_system_writes_them(tmp_path):
    # A precomposed character, or a letter and a combining accent.
    for client, label in (("ann", "\u00e9t\u00e9"), ("bob", "e\u0301te\u0301")):
        for number in range(3):
            draw(tmp_path / client / label / f"{number}.png", number)
    data = FederatedDataset.from_folder(tmp_path)
    assert data.class_names == ("\u00e9t\u00e9",)
    again = FederatedDataset.from_folder(tmp_path, class_names=["e\u0301te\u0301"])
    assert again.train_sizes == data.train_sizes
    draw(tmp_path / "bob" / "\u00c9t\u00e9 " / "0.png", 1)
    (note,) = FederatedDataset.from_folder(tmp_path).notes
    assert "'\u00c9t\u00e9 ' and '\u00e9t\u00e9' differ in case or spaces alone" in note
    # One client's folder of a class may be empty and named in another Unicode form.
    (tmp_path / "cleo" / "e\u0301te\u0301").mkdir(parents=True)
    assert FederatedDataset.from_folder(tmp_path).client_names == ("ann", "bob")


def test_a_client_is_one_however_its_name_is_written(tmp_path):
    for part, client in (("train", "Zo\u00eb"), ("test", "Zoe\u0308")):
        for label in ("a", "b"):
            draw(tmp_path / part / client / label / "0.png", len(client))
    data = FederatedDataset.from_folder(tmp_path)
    assert (data.client_names, data.train_sizes, data.test_sizes) == (("Zo\u00eb",), (2,), (2,))
    clients = {"clients": ["Ann"] * 12, "test_clients": ["ann"] * 12}
    tests = {"test_images": IMAGES + 1, "test_labels": arrays()["labels"]}
    alike, *_ = FederatedDataset.from_arrays(**arrays(), **clients, **tests).notes
    assert alike.startswith("Clients 'Ann' and 'ann' differ in case or spaces alone")


def test_links_and_endings_in_capitals_are_followed(tmp_path):
    for label in ("a", "b"):
        for number in range(3):
            draw(tmp_path / "kept" / label / f"{number}.PNG", number)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a").symlink_to(tmp_path / "kept" / "a")
    (tmp_path / "own" / "b").symlink_to(tmp_path / "kept" / "b")
    (tmp_path / "kept" / "b" / "none.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "kept" / "b" / "round.png").symlink_to("round.png")
    data = FederatedDataset.from_folder(tmp_path / "own")
    assert data.train_sizes == (4,)
    (note,) = data.notes
    assert "2 of 8 files are not used (2 .png): b/none.png, b/round.png" in note


def test_files_that_are_not_used_are_counted_and_named(tmp_path):
    for label in ("a", "b"):
        for number in range(5):
            draw(tmp_path / label / f"{number}.png", number)
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / ".hidden").write_text("left out without a word")
    (tmp_path / "readme").write_text("beside the classes")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    data = FederatedDataset.from_folder(tmp_path)
    assert data.train_sizes[0] + data.test_sizes[0] == 10
    (note,) = data.notes
    assert note.startswith(
        "4 of 14 files are not used (2 .png, 1 .txt, 1 no ending): a/broken.png, a/notes.txt, "
        "b/pipe.png, readme. The first that cannot be read: "
    )
    assert "\n" not in note


def test_a_class_that_loses_all_its_files_is_an_error(tmp_path):
    draw(tmp_path / "a" / "0.png", 1)
    draw(tmp_path / "a" / "1.png", 1)
    (tmp_path / "b").mkdir()
    with pytest.raises(DatasetError, match="one picture of class 'b', received no file"):
        FederatedDataset.from_folder(tmp_path)
    (tmp_path / "b" / "0.heic").write_bytes(b"ftypheic")
    told = "of class 'b', received 1 file, which cannot be read.*0.heic.*another kind"
    with pytest.raises(DatasetError, match=told):
        FederatedDataset.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "CLASS/PICTURE or CLIENT/CLASS/PICTURE.* received a folder without one"),
        (["0.png"], "received a folder without one"),
        (["x/a/0.png", "b/0.png"], "received 'b' with pictures beside folders of folders.*'x'"),
        (["train/a/0.png", "test/a/0.png", "more/a/0.png"], "training and test, received 'more'"),
        (["a/0.png", "\udcff/0.png"], "folders named in UTF-8"),
        (["test/a/0.png", "Val/a/0.png"], "training part, train, received only test, val. Add"),
        (["Test/a/0.png"], "a folder of the training part.*or give the folder .*Test' itself"),
        (["dev/0.png", "valid/0.png"], "a folder of the training part"),
        (["ann/train/a/0.png", "ann/test/a/0.png"], "received test and train inside of 'ann'"),
        (["cat/train/0.png", "dog/Val/0.png"], "inside of 'cat'. Put the folders of training"),
        (["train/a/0.png", "more/a/0.png"], "training and test, received 'more'. Take it out"),
        (["test/a/0.png", "val/a/0.png", "more/a/0.png"], "training and test, received 'more'"),
    ],
)
def test_other_layouts_are_refused(tmp_path, files, told):
    for file in files:
        draw(tmp_path / file, 1)
    with pytest.raises(DatasetError, match=told) as error:
        FederatedDataset.from_folder(tmp_path)
    assert str(error.value).startswith(repr(str(tmp_path)))


def test_other_paths_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path / "none.csv", tmp_path / "none.npz"):
        with pytest.raises(DatasetError, match=r"none.*: expected"):
            FederatedDataset.from_path(path)
    with pytest.raises(DatasetError, match="a path on this machine, received an address"):
        FederatedDataset.from_path("https://example.org/own.npz")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DatasetError, match="received a file of another kind"):
        FederatedDataset.from_path(tmp_path / "a.txt")
    with pytest.raises(DatasetError, match="expected a folder, received none"):
        FederatedDataset.from_folder(tmp_path / "a.txt")
    with pytest.raises(DatasetError, match=r"expected a \.csv table"):
        FederatedDataset.from_csv(tmp_path)


def test_sizes_are_decided_before_pictures_are_decoded(tmp_path, monkeypatch):
    draw(tmp_path / "a" / "0.png", 1, (4, 6))
    draw(tmp_path / "b" / "0.png", 1, (8, 8))
    with pytest.raises(DatasetError, match="one size, received 2 sizes from 4 x 6 to 8 x 8"):
        FederatedDataset.from_folder(tmp_path)
    data = FederatedDataset.from_folder(tmp_path, image_shape=(5, 5, 3))
    assert data.image_shape == (5, 5, 3)
    monkeypatch.setattr(picture_examples, "MAX_IMAGE_BYTES", 100)
    monkeypatch.setattr(picture_examples, "read_with_brightness", None)
    with pytest.raises(DatasetError, match="at most 100 bytes of pixels, received 2 pictures"):
        FederatedDataset.from_folder(tmp_path, image_shape=(10, 10, 1))


def test_clients_that_lose_all_their_files_are_named(tmp_path):
    draw(tmp_path / "ann" / "cat" / "0.png", 1)
    draw(tmp_path / "ann" / "cat" / "1.png", 2)
    for client in ("bob", "cleo"):
        (tmp_path / client / "cat").mkdir(parents=True)
    (tmp_path / "bob" / "cat" / "0.png").write_bytes(b"no picture")
    data = FederatedDataset.from_folder(tmp_path)
    assert data.client_names == ("ann",)
    told = "2 of 3 clients have no picture that can be read, and are left out: bob, cleo."
    assert told in data.notes


def test_a_folder_around_the_layout_is_named(tmp_path):
    draw(tmp_path / "shapes" / "ann" / "cat" / "0.png", 1)
    draw(tmp_path / "shapes" / "bob" / "cat" / "0.png", 1)
    with pytest.raises(
        DatasetError, match=r"deeper than these, such as .*Give the folder .*shapes"
    ):
        FederatedDataset.from_folder(tmp_path)


# Tables.


def write_table(tmp_path, text, **options):
    for name, value in (("a", 1), ("b", 2), ("c", 3), ("d", 4)):
        draw(tmp_path / "p" / f"{name}.png", value)
    path = tmp_path / "table.csv"
    path.write_text(text, **options)
    return path


def test_a_table_names_clients_and_parts(tmp_path):
    path = write_table(
        tmp_path,
        "client,path,label,split\n"
        "ann,p/a.png,3,train\nann,p/b.png,5,val\n\nbob,p/c.png,5,Train\nbob,p/d.png,3,Val\n",
    )
    data = FederatedDataset.from_csv(path)
    assert data.client_names == ("ann", "bob")
    assert data.class_names == ("3", "5")
    assert [values(data.train_examples(client)[0]) for client in (0, 1)] == [[1], [3]]
    assert [data.test_examples(client)[1].tolist() for client in (0, 1)] == [[1], [0]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_from_an_office_is_read(tmp_path, encoding):
    text = 'path; label\r\np/a.png; "Ä"\r\np/b.png;Ä\r\np/c.png;ß\r\np/d.png;ß\r\n;\r\n'
    data = FederatedDataset.from_csv(write_table(tmp_path, text, encoding=encoding))
    assert data.class_names == ("Ä", "ß")


def test_validation_beside_a_test_part_is_not_used(tmp_path):
    text = "path,label,split\np/a.png,x,train\np/b.png,x,val\np/c.png,x,test\n"
    data = FederatedDataset.from_csv(write_table(tmp_path, text))
    assert (data.train_sizes, data.test_sizes) == ((1,), (1,))
    assert "1 of 3 files is not used (1 .png): p/b.png." in data.notes


def test_a_table_that_only_names_training_examples_has_some_set_aside(tmp_path):
    rows = "".join(f"p/{name}.png,x,train\n" for name in "abcd")
    data = FederatedDataset.from_csv(write_table(tmp_path, "path,label,split\n" + rows))
    assert (data.train_sizes, data.test_sizes) == ((3,), (1,))


def test_a_line_that_repeats_another_is_not_used(tmp_path):
    text = "path,label,\np/a.png,x\np/b.png,x,\n./p/a.png,x\np/c.png,x\n"
    data = FederatedDataset.from_csv(write_table(tmp_path, text))
    assert (data.train_sizes, data.test_sizes) == ((2,), (1,))
    assert "1 line repeats another and is not used." in data.notes


def test_a_table_from_windows_names_its_files(tmp_path):
    text = "path\tlabel\tsplit\np\\a.png\tx\tTraining\np\\b.png\tx\ttesting\n"
    path = write_table(tmp_path, text).rename(tmp_path / "table.TSV")
    data = FederatedDataset.from_csv(path)
    assert (data.train_sizes, data.test_sizes) == ((1,), (1,))


def test_a_table_names_files_in_any_form_of_unicode(tmp_path):
    draw(tmp_path / "p" / "\u00fc.png", 9)
    text = "path,label\np/a.png,x\np/b.png,x\np\\u\u0308.png,x\n"
    data = FederatedDataset.from_csv(write_table(tmp_path, text, encoding="utf-8"))
    assert not data.notes
    assert 9 in values(data.dataset.train_images) + values(data.dataset.test_images)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "received an empty table"),
        ("p/a.png,1\np/b.png,2\n", "columns path and label.*received p/a.png, 1"),
        ("path,label,label\n", "columns path and label"),
        ("path,label\n", "a line for each picture, received none"),
        ("path,label\np/a.png\n", "line 2: expected a value for each.*none for label"),
        ("path,label,split\np/a.png,1,later\n", "line 2: expected split as train or test"),
        ('path,label\n"p/a.png,1\n', "table of path and label"),
        ("path,label\nnone.png,1\n", "of class '1', received 1 file, which cannot be read"),
        (",path,label\n0,p/a.png,1\n", "received , path, label. Separate .* and remove all others"),
        ("path,label\np/a.png,1\np\0,2\n", "bytes of value 0"),
        ("path,label\np/a.png,red, big\n", "line 2: expected 2 values.*received 3. Put .* quotes"),
        ("path,label\np/a.png,1\np/a.png,2\n", "line 3: expected one label .* than line 2 has"),
        (
            "path,label,split\np/a.png,1,train\np/a.png,1,test\n",
            "line 3: expected one split for each picture",
        ),
        (
            "path,label,split\np/a.png,1,Test\np/b.png,1,dev\n",
            "lines of the training part, train, received only dev, test",
        ),
        ("path,label,client\np/a.png,1,x\np/b.png,1,\n", "line 3: .*none for client"),
        ("path,label,client,split\np/a.png,1,,train\n", "line 2: .*none for client"),
        ("\n\npath,label\np/a.png,\n", "line 4: .*none for label"),
    ],
)
def test_other_tables_are_refused(tmp_path, text, told):
    path = write_table(tmp_path, text)
    with pytest.raises(DatasetError, match=told) as error:
        FederatedDataset.from_csv(path)
    assert str(error.value).startswith(repr(str(path)))


# Arrays.


def arrays(**changes):
    kept = {
        "images": np.arange(12, dtype=np.uint8).repeat(16).reshape(12, 4, 4, 1) * 20,
        "labels": np.arange(12) % 3 + 1,
    }
    return {name: value for name, value in (kept | changes).items() if value is not None}


def written(tmp_path, **changes):
    np.savez(tmp_path / "own.npz", **arrays(**changes))
    return tmp_path / "own.npz"


def test_labels_start_anywhere(tmp_path):
    data = FederatedDataset.from_path(written(tmp_path))
    assert data.class_names == ("1", "2", "3")
    numbers = np.array([value // 20 for value in values(data.dataset.train_images)])
    assert data.dataset.train_labels.tolist() == (numbers % 3).tolist()
    names = np.array(["z", "x", "y"] * 4)
    data = FederatedDataset.from_arrays(arrays()["images"], names)
    assert data.class_names == ("x", "y", "z")


def test_an_npz_tells_clients_and_a_test_part(tmp_path):
    clients = np.repeat([5, 10], 6)
    test = {"test_images": arrays()["images"][:4, ..., 0], "test_labels": np.array([1, 2, 3, 1])}
    data = FederatedDataset.from_path(written(tmp_path, clients=clients, **test))
    assert data.client_names == ("5", "10")
    assert data.train_sizes == (6, 6)
    # Test examples of no client are drawn for each client.
    assert all(data.test_sizes)
    own = written(tmp_path, clients=clients, **test, test_clients=np.array([5, 5, 5, 10]))
    assert FederatedDataset.from_path(own).test_sizes == (3, 1)


def test_arrays_that_others_call_otherwise(tmp_path):
    given = arrays(images=None, labels=None, train_images=arrays()["images"])
    given |= {"train_labels": arrays()["labels"][:, np.newaxis].astype(np.uint8)}
    np.savez(tmp_path / "m.npz", **given, val_images=np.zeros(3), client=np.arange(12))
    data = FederatedDataset.from_path(tmp_path / "m.npz")
    assert data.class_names == ("1", "2", "3")
    assert data.notes[0].startswith("The arrays client, val_images are not used: those that are")
    own = arrays()
    given = {"x_train": own["images"][..., 0], "y_train": own["labels"]}
    given |= {"x_test": own["images"][:5, ..., 0], "y_test": own["labels"][:5]}
    np.savez(tmp_path / "mnist.npz", **given)
    data = FederatedDataset.from_path(tmp_path / "mnist.npz")
    assert (data.train_sizes, data.test_sizes) == ((12,), (5,))
    np.savez(tmp_path / "mnist.npz", **given, images=own["images"])
    with pytest.raises(DatasetError, match="one of x_train and images, received both"):
        FederatedDataset.from_path(tmp_path / "mnist.npz")


@pytest.mark.parametrize(
    "names",
    [
        ("X_train", "Y_train", "X_val", "Y_val"),
        ("images_train", "labels_train", "images_dev", "labels_dev"),
        ("training_images", "training_labels", "validation_x", "validation_y"),
        # With a test part, a validation part is not used.
        ("X", "y", "x_test", "y_test", "x_valid", "y_valid"),
    ],
)
def test_arrays_of_parts_in_any_words(tmp_path, names):
    own, sizes = arrays(), (12, 5, 3)
    parts = [own[kind][:size] for size in sizes for kind in ("images", "labels")]
    np.savez(tmp_path / "own.npz", **dict(zip(names, parts, strict=False)))
    data = FederatedDataset.from_path(tmp_path / "own.npz")
    assert (data.train_sizes, data.test_sizes) == ((12,), (5,))
    assert any("x_valid, y_valid are not used" in note for note in data.notes) == (len(names) > 4)


def test_an_array_may_tell_each_examples_part(tmp_path):
    words = np.array(["Train"] * 6 + ["val"] * 2 + ["TEST"] * 4)
    data = FederatedDataset.from_path(written(tmp_path, split=words, clients=np.arange(12) % 2))
    assert (data.train_sizes, data.test_sizes) == ((3, 3), (2, 2))
    assert values(data.test_examples(0)[0]) == [160, 200]
    assert "2 of 12 examples are of a part that is not used." in data.notes
    data = FederatedDataset.from_path(written(tmp_path, split=words[:6].repeat(2)))
    assert (data.train_sizes, data.test_sizes) == ((9,), (3,))
    # With arrays of the test part, it is not used.
    test = {"test_images": IMAGES[-2:], "test_labels": np.array([1, 2])}
    data = FederatedDataset.from_path(written(tmp_path, split=words, **test))
    assert data.train_sizes == (12,)
    assert data.notes[0].startswith("The array split is not used")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.arange(12) % 3 * 1.0, ("0", "1", "2")),
        (np.arange(12) % 3 > 0, ("False", "True")),
        (np.array(["x", "y", "z"] * 4, object), ("x", "y", "z")),
        (np.array([b"x", b"y", b"z"] * 4, object), ("x", "y", "z")),
        (np.array([1, 10, np.int32(2)] * 4, object), ("1", "2", "10")),
        (np.arange(12) % 2 - 1, ("-1", "0")),
    ],
)
def test_labels_and_clients_are_of_any_type_that_names(values, names):
    images = arrays()["images"]
    assert FederatedDataset.from_arrays(images, values).class_names == names
    data = FederatedDataset.from_arrays(images, np.arange(12) % 2, values)
    assert data.client_names == names
    assert sum(data.train_sizes) + sum(data.test_sizes) == 12


def test_images_that_look_otherwise_than_meant_are_told():
    labels, rng = np.arange(12) % 3, np.random.default_rng(0)
    channels_first = rng.integers(0, 256, (12, 3, 8, 8)).astype(np.uint8)
    (note,) = FederatedDataset.from_arrays(channels_first, labels).notes
    assert "3 x 8 of 8 channels each" in note
    assert not FederatedDataset.from_arrays(np.moveaxis(channels_first, 1, -1), labels).notes
    of_12_bits = rng.integers(0, 4096, (12, 8, 8)).astype(np.uint16)
    (note,) = FederatedDataset.from_arrays(of_12_bits, labels).notes
    assert "16 bits a channel, but no pixel is above 40" in note
    assert not FederatedDataset.from_arrays(of_12_bits * 16, labels).notes
    scaled = FederatedDataset.from_arrays(of_12_bits, labels, pixel_scale=4095)
    assert not scaled.notes
    assert scaled.dataset.train_images.max() > 250
    dark = {"test_images": rng.integers(0, 17, (12, 8, 8), np.uint8), "test_labels": labels}
    (note,) = FederatedDataset.from_arrays(channels_first[:, 0], labels, **dark).notes
    assert "No pixel of test_images is above 16, and the brightest of the other part is 255" in note
    for scale, told in ((255, "expected pixels from 0 to the pixel_scale"), (0, "above 0")):
        with pytest.raises(ValueError, match=told):
            FederatedDataset.from_arrays(of_12_bits, labels, pixel_scale=scale)


def test_ink_of_the_backgrounds_colour_is_told(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            pixels = np.full((8, 8, 4), 255, np.uint8)
            pixels[number:, :, 3] = 0
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    (note,) = FederatedDataset.from_folder(tmp_path).notes
    assert note.startswith("8 of 8 pictures with transparent pixels have the same colour all over")
    assert "background white: choose another" in note
    # On black, only two of the pictures are blank.
    notes = FederatedDataset.from_folder(tmp_path, background="black").notes
    assert not any("background" in note for note in notes)


def test_blank_images_without_transparent_pixels_are_told_without_a_background():
    images = np.repeat(np.arange(4, dtype=np.uint8) // 3 * 50, 16).reshape(4, 4, 4)
    images[3, 0] = 9
    (note,) = FederatedDataset.from_arrays(images, np.arange(4) % 2).notes
    assert note.startswith("3 of 4 images are alike and have the same colour all over")
    assert "background" not in note


def test_few_examples_have_fewer_clients_if_nobody_says_how_many():
    for kind, labels, expected in (
        ("shard", np.arange(2000) % 10, 20),
        ("shard", np.arange(60) % 10, 6),
        ("shard", np.arange(15) % 10, 2),
        ("shard", np.arange(606) % 101, 21),
        ("iid", np.arange(40) % 4, 20),
        ("iid", np.arange(15) % 4, 1),
    ):
        assert DataSettings("mine", partition=kind).fitting_clients(labels, kind) == expected


@pytest.mark.parametrize("classes", [6, 11, 101])
def test_data_of_any_number_of_classes_are_divided(tmp_path, classes):
    labels = np.arange(6 * classes) % classes if classes > 100 else np.arange(2 * classes) % classes
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 2, 2), np.uint8)
    np.savez(tmp_path / "many.npz", images=images, labels=labels)
    data = DataSettings(str(tmp_path / "many.npz")).load()
    held = np.concatenate([data.train_examples(client)[1] for client in range(len(data))])
    assert set(held) == set(range(classes))


def test_a_small_folder_without_clients_is_divided(tmp_path):
    random = np.random.default_rng(0)
    for label in "abc":
        (tmp_path / label).mkdir()
        for number in range(15):
            pixels = random.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    data = DataSettings(str(tmp_path)).load()
    assert len(data) == 3
    assert data.partition == "shard"
    (note,) = data.notes
    assert note.startswith("36 training examples are divided among 3 clients")
    assert len(DataSettings(str(tmp_path), clients=5).load()) == 5
    with pytest.raises(ValueError, match=r"received 20 x 5"):
        DataSettings(str(tmp_path), clients=20).load()


def test_dark_pictures_of_16_bits_are_told(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(5):
            pixels = np.linspace(0, 400 * number, 64, dtype=np.uint16).reshape(8, 8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    # White padding of pictures with another aspect ratio is not one of their pixels.
    for options in ({}, {"image_shape": (8, 12, 1), "resize": "fit"}):
        note = FederatedDataset.from_folder(tmp_path, **options).notes[0]
        assert note.startswith("10 pictures are taken for 16 bits a channel, but no pixel of 10 ")
        assert "above 2% of the brightest" in note
    data = DataSettings(str(tmp_path), partition="iid", clients=1, pixel_scale=4095).load()
    assert not any("16 bits" in note for note in data.notes)
    brightest = max(data.dataset.train_images.max(), data.dataset.test_images.max())
    assert brightest == round(1600 * 255 / 4095)


@pytest.mark.parametrize(
    ("images", "expected", "greatest"),
    [
        (np.linspace(0, 1, 12, dtype=np.float32), np.rint(np.linspace(0, 255, 12)), 255),
        (np.arange(12) > 5, np.where(np.arange(12) > 5, 255, 0), 255),
        (np.arange(12, dtype=np.uint16) * 257, np.arange(12), 255),
        (np.arange(12), np.arange(12), 11),
        # Dark images, which do not have fewer bits.
        (np.arange(12) * 9, np.arange(12) * 9, 255),
        (np.arange(12) * 23.0, np.arange(12) * 23, 255),
    ],
)
def test_pixels_of_other_types_become_bytes(images, expected, greatest):
    images = images[:, np.newaxis, np.newaxis].repeat(4, 1).repeat(4, 2)
    data = FederatedDataset.from_arrays(
        images, arrays()["labels"], test_images=images, test_labels=arrays()["labels"]
    )
    assert values(data.dataset.train_images) == expected.tolist()
    assert data.preprocessing.greatest_pixel == greatest


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(header + values.tobytes())


def test_idx_files_of_any_size_and_labels_are_read(tmp_path):
    own, folder = arrays(), tmp_path / "letters"
    folder.mkdir()
    for split in ("train", "test"):
        write_idx(folder / f"emnist-{split}-images-idx3-ubyte", own["images"][..., 0])
        write_idx(folder / f"emnist-{split}-labels-idx1-ubyte", own["labels"].astype(np.uint8))
    data = FederatedDataset.from_folder(folder)
    assert (data.name, data.class_names) == ("letters", ("1", "2", "3"))
    np.testing.assert_array_equal(data.dataset.test_images, own["images"])
    write_idx(folder / "emnist-test-images-idx3-ubyte", own["images"])
    with pytest.raises(DatasetError, match=r"received 00000804; read it .* as an .npz"):
        FederatedDataset.from_folder(folder)
    write_idx(folder / "other-train-images-idx3-ubyte", own["images"][..., 0])
    with pytest.raises(DatasetError, match=r"one file .*received emnist-train.*, other-train"):
        FederatedDataset.from_folder(folder)


def test_idx_files_may_have_a_dot_in_their_names(tmp_path):
    own = arrays()
    write_idx(tmp_path / "train-images.idx3-ubyte", own["images"][..., 0])
    write_idx(tmp_path / "train-labels.idx1-ubyte", own["labels"].astype(np.uint8))
    assert FederatedDataset.from_folder(tmp_path).class_names == ("1", "2", "3")


def test_a_test_folder_without_classes_is_not_used(tmp_path):
    for label, begin in (("cat", 0), ("dog", 100)):
        for number in range(5):
            draw(tmp_path / "train" / label / f"{number}.png", begin + number)
    for number in range(3):
        draw(tmp_path / "test" / f"{number}.png", 50 + number)
    data = FederatedDataset.from_folder(tmp_path)
    assert (data.train_sizes, data.test_sizes) == ((8,), (2,))
    assert any("3" in note for note in data.notes)
    for label, begin in (("cat", 60), ("dog", 160)):
        draw(tmp_path / "validation" / label / "0.png", begin)
    assert FederatedDataset.from_folder(tmp_path).test_sizes == (2,)


def test_unsigned_and_signed_labels_are_the_same_classes():
    own = arrays()
    data = FederatedDataset.from_arrays(
        own["images"],
        own["labels"].astype(np.uint64),
        test_images=own["images"],
        test_labels=own["labels"].astype(np.int64),
    )
    assert data.class_names == ("1", "2", "3")
    huge = np.array([2**70, 3] * 10, object)
    images = np.arange(20 * 64).reshape(20, 8, 8).astype(np.uint8)
    assert FederatedDataset.from_arrays(images, huge).class_names == ("3", str(2**70))


def test_arrays_are_scaled_for_a_model_as_files_are():
    images = np.random.default_rng(0).integers(0, 2, (40, 8, 8), np.uint8)
    labels = np.arange(40) % 2
    of_model = FederatedDataset.from_arrays(images, labels).preprocessing
    options = {"class_names": ("0", "1"), "preprocessing": of_model}
    data = FederatedDataset.from_arrays(255 * images, labels, **options)
    assert data.dataset.train_images.max() == 1
    assert any("were scaled to 0..1" in note for note in data.notes)
    with pytest.raises(DatasetError, match="expected images of 1 channels"):
        FederatedDataset.from_arrays(np.zeros((40, 8, 8, 3), np.uint8), labels, **options)


IMAGES = arrays()["images"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": None}, r"expected arrays images and labels.*received \['images'\]"),
        ({"test_images": IMAGES}, "both or none of test_images and test_labels"),
        ({"images": IMAGES[:0], "labels": np.zeros(0, int)}, "one image in images, received none"),
        (
            {"test_images": IMAGES[:0], "test_labels": np.zeros(0, int)},
            r"one image in test_images, received none, shape \(0, 4, 4, 1\). Add some, or leave",
        ),
        ({"labels": np.zeros(11, int)}, r"labels of shape \(12,\)"),
        ({"labels": np.zeros(11, int), "split": ["train"] * 12}, r"labels of shape \(12,\)"),
        ({"split": ["train", "later"] * 6}, "split as train or test, received 'later'"),
        ({"split": np.arange(12) % 2}, "split as train or test, received '0'"),
        ({"split": ["val", "test"] * 6}, "examples of the training part, .* only test, val"),
        ({"split": ["train"] * 5}, r"split of shape \(12,\)"),
        ({"labels": np.zeros(12) + 0.5}, "received float64"),
        ({"labels": np.array(["a", "", "b"] * 4)}, "12 images in labels, received 4 empty ones"),
        ({"labels": np.array([b"\xff"] * 12)}, "labels as text in UTF-8, received bytes"),
        ({"clients": np.array(["a", "", "b"] * 4)}, "images in clients, received 4 empty ones"),
        (
            {"test_images": IMAGES / 255, "test_labels": np.zeros(12, int)},
            "one scale, received uint8 up to 220 and float64 up to 0.862745. Write both",
        ),
        (
            {"test_images": IMAGES.astype(np.uint16) * 257, "test_labels": np.zeros(12, int)},
            "one scale, received uint8 up to 220 and uint16 up to 56540",
        ),
        (
            {"test_images": IMAGES > 99, "test_labels": np.zeros(12, int)},
            "one scale, received uint8 up to 220 and bool up to 1",
        ),
        ({"images": None, "pixels": IMAGES}, r"received \['labels', 'pixels'\]"),
        ({"labels": np.eye(12, dtype=int)}, r"received int64 of shape \(12, 12\)"),
        ({"images": IMAGES[..., 0, 0, 0]}, "images of shape .examples, height, width, channels"),
        ({"images": IMAGES * 1.5 - 7.3}, "whole numbers of 8 or 16 bits"),
        ({"images": IMAGES.astype(int) * 1000}, "received int64 from 0 to 220000"),
        ({"images": np.where(IMAGES > 9, np.nan, 0)}, "received float64 from nan to nan"),
        ({"clients": np.zeros(3, int)}, r"clients of shape \(12,\)"),
        ({"test_clients": np.zeros(3, int)}, "clients and test_images beside test_clients"),
        ({"test_images": IMAGES[:, :2], "test_labels": np.zeros(12, int)}, "the shape of images"),
        ({"test_images": IMAGES, "test_labels": np.array(["a"] * 12)}, "the type of labels"),
        ({"images": np.array([{}] * 12)}, "a complete .npz"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path, changes, told):
    path = written(tmp_path, **changes)
    with pytest.raises(DatasetError, match=told) as error:
        FederatedDataset.from_path(path)
    assert "own.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_lists_that_are_no_array_are_refused():
    for name, ragged in (
        ("images", [np.zeros((4, 4)), np.zeros((4, 5))]),
        ("labels", [[1], [2, 3]]),
    ):
        with pytest.raises(DatasetError, match=f"{name} that are one array, .* different shapes"):
            FederatedDataset.from_arrays(**{"images": IMAGES[:2], "labels": [0, 1], name: ragged})
    with pytest.raises(ValueError, match="seed to be a whole number from 0, received -1"):
        FederatedDataset.from_arrays(**arrays(), seed=-1)


def test_arrays_are_bounded_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsup_tf.data.array_examples.MAX_IMAGE_BYTES", 100)
    with pytest.raises(DatasetError, match="images of at most 100 bytes"):
        FederatedDataset.from_path(written(tmp_path))
    assert data_examples.MAX_IMAGE_BYTES > 2**30


def test_arrays_are_scaled_to_a_shape_that_is_asked_for(tmp_path):
    data = FederatedDataset.from_path(written(tmp_path), image_shape=(8, 6, 3))
    assert data.image_shape == (8, 6, 3)
    with pytest.raises(DatasetError, match="only images of 1, 3 or 4 channels can be scaled"):
        FederatedDataset.from_path(
            written(tmp_path, images=np.zeros((12, 1, 9, 6), np.uint8)), image_shape=SHAPE
        )


def test_images_that_are_cut_or_fitted_keep_their_scale(tmp_path):
    path = written(tmp_path, images=np.repeat(IMAGES % 17, 2, axis=2))
    data = FederatedDataset.from_path(path, image_shape=(4, 4, 1))
    (note,) = data.notes
    assert note.startswith("Images of 4 x 8 were cut to the aspect ratio of 4 x 4 pixels")
    data = FederatedDataset.from_path(path, image_shape=(8, 8, 1), resize="fit")
    assert not data.notes
    # The background is as bright as this scale allows.
    assert data.preprocessing.greatest_pixel == data.dataset.train_images.max() == 16
    assert values(data.dataset.train_images) == [16] * len(data.dataset.train_labels)


# Labels of a model.


@pytest.mark.parametrize(
    ("labels", "class_names", "expected"),
    [
        (["b", "a"], ("a", "b"), [1, 0]),
        (["T-shirt_top"], ("Coat", "T-shirt/top"), [1]),
        ([1, 10], tuple(map(str, range(1, 11))), [0, 9]),
        ([0, 9], tuple(map(str, range(1, 11))), [0, 9]),
        (["1", "0"], ("a", "b"), [1, 0]),
    ],
)
def test_labels_are_names_of_classes_or_their_numbers(labels, class_names, expected):
    numbers, names = number_labels(labels, class_names, "these")
    assert numbers.tolist() == expected
    assert numbers.dtype == np.int32
    assert names == class_names


@pytest.mark.parametrize("labels", [["a", "c"], ["a", "1"], [2], [-1]])
def test_labels_of_no_class_are_refused(labels):
    with pytest.raises(ValueError, match="these: expected labels of the 2 classes a, b"):
        number_labels(labels, ("a", "b"), "these")


@pytest.mark.parametrize("class_names", ["ab", [0, 1], ["a", "b", "a"], [], {"a", "b"}, 5])
def test_class_names_are_different_texts(class_names):
    with pytest.raises(ValueError, match="these: expected class_names as a list of different nam"):
        number_labels(["a", "b"], class_names, "these")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\0b", "\ud800", "9" * 5000])
def test_names_that_no_table_or_file_can_hold_are_refused(name):
    labels = arrays()["labels"]
    for part, given in (("labels", (["b", name] * 6,)), ("clients", (labels, ["b", name] * 6))):
        with pytest.raises(ValueError, match=f"arrays, {part}: expected at most 1,000") as error:
            FederatedDataset.from_arrays(IMAGES, *given)
        assert str(error.value).isprintable()
    with pytest.raises(ValueError, match="received ") as error:
        number_labels(["a", name[:9]], ("a", "b"), "these")
    assert str(error.value).isprintable()


# Clients and settings.


def test_a_client_without_a_part_is_said():
    clients = np.array(["alone", *["many"] * 11])
    data = FederatedDataset.from_arrays(IMAGES, arrays()["labels"], clients)
    assert data.test_sizes[0] == 0
    assert data.notes == ("1 of 2 clients has no test examples: alone.",)


def test_clients_without_a_part_are_left_out_if_asked(tmp_path):
    clients = np.array([*["lonely"], *["many"] * 6, *["some"] * 5])
    path = str(written(tmp_path, clients=clients))
    assert DataSettings(path).load().test_sizes == (0, 1, 1)
    data = DataSettings(path, incomplete_clients="leave_out").load()
    assert data.client_names == ("many", "some")
    (note,) = data.notes
    assert note.startswith("1 of 3 clients is left out, without training or test")
    with pytest.raises(ValueError, match="incomplete_clients to be one of keep, leave_out"):
        DataSettings(path, incomplete_clients="no").load()
    tests = {"test_images": IMAGES, "test_labels": [0] * 12, "test_clients": [0, 1, 2] * 4}
    data = FederatedDataset.from_arrays(IMAGES[:2], [0, 1], [0, 1], **tests)
    assert data.trainable().client_names == ("0", "1")
    note = "1 of 3 clients is left out, without training examples: 2."
    assert data.trainable().reading_notes[-1] == note
    data = FederatedDataset.from_arrays(IMAGES[:2], np.array([0, 1]), np.array([0, 1]))
    assert data.trainable() is data
    with pytest.raises(ValueError, match="none has both"):
        data.complete()


def test_settings_take_clients_as_they_are_or_divide(tmp_path):
    path = str(written(tmp_path, clients=np.repeat([1, 2, 3], 4)))
    data = DataSettings(path).load()
    assert (data.partition, len(data)) == ("natural", 3)
    data = DataSettings(path, partition="iid", clients=4).load()
    assert (data.partition, len(data)) == ("iid", 4)
    path = str(written(tmp_path))
    assert DataSettings(path, clients=3, classes_per_client=2).load().partition == "shard"
    for settings in (DataSettings(path, partition="natural"), DataSettings(partition="natural")):
        with pytest.raises(ValueError, match="data with clients for the natural partition"):
            settings.load()
    path = str(written(tmp_path, clients=["ann"] * 12))
    with pytest.raises(ValueError, match=r"which has one client, ann\. Choose another"):
        DataSettings(path, partition="natural").load()
    assert "The data has one client, ann: its examples are divided anew." in (
        DataSettings(path).load().notes
    )


def test_a_folder_is_called_by_its_name_from_inside_of_it(tmp_path, monkeypatch):
    for number in range(3):
        draw(tmp_path / "pets" / "cat" / f"{number}.png", number)
    monkeypatch.chdir(tmp_path / "pets")
    assert FederatedDataset.from_folder(".").name == "pets"


def test_normalization_comes_from_all_clients_sums():
    images = np.random.default_rng(0).integers(0, 256, (700, 3, 5, 2), np.uint8)
    sums = [channel_sums(part) for part in np.array_split(images, 4)]
    mean, deviation = mean_and_deviation(sums)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(deviation, images.std((0, 1, 2)), atol=1e-4)
    assert mean_and_deviation([channel_sums(images)]) == (mean, deviation)
    assert mean_and_deviation([channel_sums(images[:1] * 0 + 7)]) == ((7.0, 7.0), (1.0, 1.0))
    with pytest.raises(ValueError, match="Add training examples"):
        mean_and_deviation([channel_sums(images[:0])])


def test_images_of_another_scale_than_a_models_are_scaled_or_told(tmp_path):
    model = Preprocessing((5.0,), (6.0,), greatest_pixel=16)
    for number, value in enumerate((255, 128, 0)):
        draw(tmp_path / "p" / "a" / f"{number}.png", value)
    data = FederatedDataset.from_folder(tmp_path / "p", preprocessing=model)
    read = values(data.dataset.train_images) + values(data.dataset.test_images)
    assert sorted(read) == [0, 8, 16]
    told = "The images' pixels of 0..255 were scaled to 0..16, those that the model was trained on."
    assert data.notes == (told,)
    data = FederatedDataset.from_path(written(tmp_path), preprocessing=model)
    assert data.notes == (told,)
    assert data.dataset.train_images.max() == 14
    # There is no note if the scale is the same, or the model's scale is unknown.
    ours = written(tmp_path, images=IMAGES % 17)
    data = FederatedDataset.from_path(ours, preprocessing=model)
    assert not data.notes
    assert data.dataset.train_images.max() == 16
    unknown = Preprocessing((5.0,), (6.0,))
    assert not FederatedDataset.from_path(written(tmp_path), preprocessing=unknown).notes
    # Neither the model's scale nor that of pictures.
    with pytest.raises(DatasetError, match=r"from 0 to 16, .* or to 255, received .* up to 20\."):
        FederatedDataset.from_path(written(tmp_path, images=IMAGES % 21), preprocessing=model)
    # Pixels of digits, for a model that was trained on pictures.
    bright = Preprocessing((5.0,), (6.0,), greatest_pixel=255)
    ours = written(tmp_path, images=IMAGES % 17)
    (note,) = FederatedDataset.from_path(ours, preprocessing=bright).notes
    assert note.startswith("No pixel of the images is above 16, and the model was trained on")


def test_pictures_are_read_as_those_of_a_model(tmp_path):
    for label in "ab":
        (tmp_path / "p" / label).mkdir(parents=True)
        for number in range(3):
            pixels = np.zeros((4, 8, 4), np.uint8)
            pixels[:, 4:] = 100 + number, 100, 100, 255
            Image.fromarray(pixels).save(tmp_path / "p" / label / f"{number}.png")
    path, shape = tmp_path / "p", (4, 4, 1)
    given = {"resize": "fit", "background": "#808080"}
    data = FederatedDataset.from_folder(path, image_shape=shape, **given)
    model = Preprocessing.from_json(data.preprocessing.to_json())
    assert (model.resize, model.background) == ("fit", "#808080")
    for repeated in ({}, given):
        read = FederatedDataset.from_folder(
            path, image_shape=shape, preprocessing=model, **repeated
        )
        assert read.fingerprint() == data.fingerprint()
        assert not read.notes
    other = FederatedDataset.from_folder(
        path, image_shape=shape, preprocessing=model, background="black"
    )
    assert other.fingerprint() != data.fingerprint()
    told = "Pictures are read with background black, those that the model was trained on with #808"
    assert other.notes[0].startswith(told)
    # Arrays are cut like pictures.
    arrays = written(tmp_path, images=np.repeat(IMAGES, 2, axis=2))
    data = FederatedDataset.from_path(arrays, image_shape=shape, preprocessing=model)
    assert (data.dataset.train_images[:, 0] == 128).all()
    # Files of earlier versions contain neither.
    earlier = Preprocessing.from_json(
        '{"mean": [1], "standard_deviation": [1], "crop_padding": 0, "flip": false}'
    )
    read = FederatedDataset.from_folder(path, image_shape=shape, preprocessing=earlier, **given)
    assert not read.notes
    read = FederatedDataset.from_folder(path, image_shape=shape, preprocessing=earlier)
    # Cropped, not fitted: half of the pixels are background.
    assert values(read.dataset.test_images) == [255, 255]


def test_labels_that_number_a_models_classes_are_told():
    labels = np.arange(12) % 2 + 1
    data = FederatedDataset.from_arrays(IMAGES, labels, class_names=("ant", "bee", "cat"))
    told = "Labels are taken as numbers of the model's classes from 0: 1 is bee, 2 is cat. If your "
    assert data.notes == (
        told + "numbers do not start at 0, use the names of the classes as labels.",
    )
    for names in (("1", "2"), ("0", "1", "2")):
        assert not FederatedDataset.from_arrays(IMAGES, labels, class_names=names).notes


def test_a_class_of_test_examples_alone_is_told():
    test = {"test_images": IMAGES[-2:], "test_labels": np.array([1, 9])}
    data = FederatedDataset.from_arrays(**arrays(), **test)
    told = "There are test examples, but no training examples, of classes 9."
    assert data.notes == (told,)


def test_test_images_that_are_training_images_are_told():
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4), np.uint8)
    test = {
        "test_images": np.concatenate((images[:1], images[4:])),
        "test_labels": np.arange(5) % 2,
    }
    (note,) = FederatedDataset.from_arrays(images[:4], np.arange(4) % 2, **test).notes
    assert note.startswith("1 of 5 test images is a training image, too")


def test_one_example_of_each_class_is_too_few_to_divide(tmp_path):
    path = written(tmp_path, labels=np.arange(12))
    with pytest.raises(ValueError, match="at least two examples to set some aside, received 12"):
        DataSettings(str(path), partition="iid").load()


def test_fewer_examples_than_shards_are_divided(tmp_path):
    path = written(tmp_path, images=IMAGES[:4], labels=np.arange(4) % 2)
    assert DataSettings(str(path)).load().train_sizes == (3,)


def test_no_class_loses_its_only_example_to_the_test():
    labels = np.array([0, 1, 2, 2])
    data = FederatedDataset.from_arrays(IMAGES[:4], labels, test_share=0.9)
    assert sorted(data.train_examples(0)[1].tolist()) == [0, 1, 2]
    assert data.test_examples(0)[1].tolist() == [2]
