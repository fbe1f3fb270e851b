"""Lists the labelled picture files of a folder or a table without reading the pictures."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from unicodedata import normalize

from fedsup_tf.data.archives import DatasetError
from fedsup_tf.data.class_labels import list_names
from fedsup_tf.data.split_words import TEST_WORDS, TRAIN_WORDS, choose_test_word, split_word
from fedsup_tf.files.reading import read_text, reading

# Entries that systems add to folders and archives, in addition to names that begin with a dot.
_OF_SYSTEMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
_MAX_FILES = 2**22
_COLUMNS = ("path", "label", "client", "split")
_LAYOUTS = (
    "CLASS/PICTURE or CLIENT/CLASS/PICTURE, both also below a folder train and a folder test "
    "(docs/own_data.md)"
)


class ExampleFile(NamedTuple):
    """File of one labelled picture.

    Attributes:
      path: Path of the file.
      name: Name for messages, relative to the folder or the table.
      label: Name of the picture's class.
      client: Name of the client that owns the picture; None if there is none.
      is_test: Whether the picture is a test example; None if the data has no splits.
    """

    path: str
    name: str
    label: str
    client: str | None
    is_test: bool | None


class FileList(NamedTuple):
    """Files of a folder or a table.

    Attributes:
      files: Files of the examples, in the order of their names or rows.
      unused: Names of files outside the folders of classes, or in a split that is not used.
      classes: Names of all classes, including those without files.
      clients: Names of all clients, including those without files.
      repeated: Number of table rows that only repeat another.
    """

    files: list[ExampleFile]
    unused: list[str]
    classes: list[str]
    clients: list[str]
    repeated: int = 0


def list_folder(folder: str) -> FileList:
    """Lists the files of a folder of pictures.

    Args:
      folder: Folder with the layout `CLASS/PICTURE` or `CLIENT/CLASS/PICTURE`; either may be
        repeated inside the two folders `train` and `test`. Names that begin with a dot are ignored.

    Raises:
      DatasetError: If there is no class folder, or the layout is not one of these.
    """
    with reading(folder, "a folder of pictures", error_type=DatasetError):
        inside, loose = _entries(folder)
        splits = {name: split_word(name) for name in inside}
        others = [name for name, word in splits.items() if word is None]
        words = set(splits.values()) - {None}
        # A class may be named `train`, but a client hardly ever is.
        are_parts = bool(words & set(TRAIN_WORDS) and words - set(TRAIN_WORDS)) or any(
            _entries(os.path.join(folder, name))[0] for name, word in splits.items() if word
        )
        if others and are_parts:
            raise ValueError(
                f"expected no folder beside those of training and test, received {others[0]!r}. "
                "Take it out."
            )
        if words and not others:
            remedy = f"give the folder {os.path.join(folder, inside[0])!r} itself"
            # A test part without folders of classes, such as Kaggle's, has no labels.
            labelled = {
                name: word
                for name, word in splits.items()
                if word in TRAIN_WORDS or _entries(os.path.join(folder, name))[0]
            }
            test = choose_test_word(labelled.values(), "a folder", remedy)
            used = {name: word for name, word in labelled.items() if word in (*TRAIN_WORDS, test)}
            unused = loose + [
                os.path.join(name, file)
                for name in sorted(splits.keys() - used)
                for file in _all_files(os.path.join(folder, name))
            ]
            lists = [
                _list_part(folder, name, word == test if test else None)
                for name, word in used.items()
            ]
        else:
            unused, lists = loose, [_list_part(folder, "", None)]
        files = [file for part in lists for file in part.files]
        unused += [name for part in lists for name in part.unused]
        classes = [name for part in lists for name in part.classes]
        if not classes:
            raise ValueError(
                f"expected {_LAYOUTS}, received a folder without one. Make a subfolder of pictures "
                "for each class."
            )
        if not files and (deep := next((name for name in unused if name.count(os.sep) > 2), None)):
            below = os.path.join(folder, deep.partition(os.sep)[0])
            raise ValueError(
                f"expected {_LAYOUTS}, received files in folders deeper than these, such as "
                f"{deep!r}. Give the folder {below!r}."
            )
        clients = [name for part in lists for name in part.clients]
        return FileList(files, unused, list(dict.fromkeys(classes)), list(dict.fromkeys(clients)))


def _list_part(root: str, part: str, is_test: bool | None) -> FileList:
    folders, loose = _entries(os.path.join(root, part))
    unused = [os.path.join(part, name) for name in loose] if part else list()
    inner = {name: _entries(os.path.join(root, part, name)) for name in folders}
    has_clients = any(below for below, _ in inner.values())
    inmost = {name for below, _ in inner.values() for name in below}
    if inmost and all(map(split_word, inmost)):
        raise ValueError(
            f"expected {_LAYOUTS}, received {' and '.join(sorted(inmost))} inside of "
            f"{next(name for name, (found, _) in inner.items() if found)!r}. Put the folders of "
            "training and test on top, or rename them if they are classes."
        )
    files, classes = [], []
    for first, (below, direct) in inner.items():
        first_path = os.path.join(part, first)
        if not has_clients:
            classes.append(first)
            files += _class_files(root, first_path, direct, first, None, is_test)
            continue
        if direct and not below:
            raise ValueError(
                f"expected {_LAYOUTS}, received {first!r} with pictures beside folders of folders, "
                f"such as {next(name for name, (found, _) in inner.items() if found)!r}. Put its "
                "pictures in a folder of their class, or take the folders in the other out."
            )
        unused += [os.path.join(first_path, name) for name in direct]
        for label in below:
            path = os.path.join(first_path, label)
            deeper, names = _entries(os.path.join(root, path))
            for folder in deeper:
                below_class = _all_files(os.path.join(root, path, folder))
                unused += [os.path.join(path, folder, name) for name in below_class]
            classes.append(label)
            files += _class_files(root, path, names, label, first, is_test)
    if len(files) > _MAX_FILES:
        raise ValueError(
            f"expected at most {_MAX_FILES:,} files, received {len(files):,}. Give a part of them."
        )
    return FileList(files, unused, classes, list(inner) if has_clients else [])


def _class_files(root, path, names, label, client, is_test) -> Iterator[ExampleFile]:
    for name in names:
        relative = os.path.join(path, name)
        yield ExampleFile(os.path.join(root, relative), relative, label, client, is_test)


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the subfolders and of the other entries of a folder."""
    folders, others = [], []
    # `os.path.isdir`, since `DirEntry.is_dir` raises an error for a circular link.
    with reading(folder, "a folder that can be listed"), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _OF_SYSTEMS:
                continue
            if not os.path.isdir(entry.path):
                others.append(entry.name)
                continue
            if not _is_text(entry.name):
                raise ValueError(
                    f"expected folders named in UTF-8, received {entry.name!r}. Rename it."
                )
            folders.append(entry.name)
    return sorted(folders), sorted(others)


def _is_text(name: str) -> bool:
    """Returns whether a file name is valid UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace") == name


def _all_files(folder: str) -> list[str]:
    # Does not follow links to folders, which may be circular.
    return sorted(
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
    )


def list_table(path: str) -> FileList:
    """Lists the files of a table.

    Args:
      path: A `.csv` or `.tsv` file whose first line names the columns `path` and `label`, and
        optionally `client` and `split` (`train` or `test`). Picture paths are relative to the
        table's folder.

    Raises:
      DatasetError: If the file is not such a table.
    """
    with reading(path, "a .csv table of path and label", error_type=DatasetError):
        text = read_text(path, "a .csv table of path and label")
        first = text.lstrip("\r\n").partition("\n")[0]
        delimiter = next((mark for mark in ",;\t" if mark in first), ",")
        rows = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
        )
        first_row = next((row for row in rows if any(map(str.strip, row))), [])
        columns = [name.strip().lower() for name in first_row]
        while columns and not columns[-1]:
            # Some programs write a trailing delimiter on each line.
            columns.pop()
        if not {"path", "label"} <= set(columns) <= set(_COLUMNS) or len(set(columns)) < len(
            columns
        ):
            raise ValueError(
                "expected a first line of the columns path and label, and maybe client and split, "
                f"received {list_names(columns) or 'an empty table'}. Separate the columns by "
                "commas, semicolons or tabs, and remove all others."
            )
        # Skips empty rows; office programs may end a table with rows of only delimiters.
        lines = [
            (rows.line_num, _cells(row, columns, rows.line_num))
            for row in rows
            if any(map(str.strip, row))
        ]
        if not lines:
            raise ValueError(
                "expected a line for each picture, received none. Add path and label of each."
            )
        if len(lines) > _MAX_FILES:
            raise ValueError(
                f"expected at most {_MAX_FILES:,} lines, received {len(lines):,}. Give a part of "
                "them."
            )
        return _list_lines(os.path.dirname(path), lines)


def _cells(row: list[str], columns: Sequence[str], number: int) -> dict[str, str]:
    """Returns the values of a line by column; raises a ValueError if one is missing or invalid."""
    row = [text.strip() for text in row]
    if any(row[len(columns) :]):
        raise ValueError(
            f"line {number}: expected {len(columns)} values, of {', '.join(columns)}, received "
            f"{len(row)}. Put a value with a delimiter in it between double quotes."
        )
    cells = dict(zip(columns, row, strict=False))
    is_test = split_word(cells.get("split", "")) in TEST_WORDS
    # Test examples may belong to nobody; each client is then tested on some of its classes.
    needed = [name for name in columns if not (name == "client" and is_test)]
    empty = [name for name in needed if not cells.get(name)]
    if empty:
        raise ValueError(
            f"line {number}: expected a value for each of {', '.join(columns)}, received none for "
            f"{empty[0]}. Complete the line."
        )
    if "split" in cells and not split_word(cells["split"]):
        raise ValueError(
            f"line {number}: expected split as train or test, received {cells['split']!r}. Write "
            "one of them."
        )
    return cells


def _list_lines(folder: str, lines: Sequence[tuple[int, dict[str, str]]]) -> FileList:
    words = {split_word(cells["split"]) for _, cells in lines if "split" in cells}
    test = choose_test_word(words, "lines", "leave the column split out") if words else None
    # For each path and client, the number of the first line with them, and its file.
    found: dict[tuple[str, str | None], tuple[int, ExampleFile]] = {}
    unused, repeated = [], 0
    for number, cells in lines:
        word = split_word(cells.get("split", ""))
        if word and word not in (*TRAIN_WORDS, test):
            unused.append(cells["path"])
            continue
        path = _path(folder, cells["path"])
        is_test = word == test if test else None
        file = ExampleFile(
            path, cells["path"], cells["label"], cells.get("client") or None, is_test
        )
        first, earlier = found.setdefault((os.path.normpath(path), file.client), (number, file))
        repeated += first != number
        if (earlier.label, earlier.is_test) != (file.label, is_test):
            what = "label" if earlier.label != file.label else "split"
            raise ValueError(
                f"line {number}: expected one {what} for each picture, received another for "
                f"{file.name!r} than line {first} has. Take one of the two lines out."
            )
    files = [file for _, file in found.values()]
    classes = list(dict.fromkeys(file.label for file in files))
    clients = list(dict.fromkeys(file.client for file in files if file.client is not None))
    return FileList(files, unused, classes, clients, repeated)


def _path(folder: str, text: str) -> str:
    """Returns the path of a picture, which may be spelled as on other systems."""
    # Windows path separators, and accented letters as one character or as two.
    spellings = [text, text.replace("\\", "/")]
    spellings += [normalize(form, spellings[1]) for form in ("NFC", "NFD")]
    paths = [os.path.join(folder, os.path.expanduser(spelling)) for spelling in spellings]
    return next(filter(os.path.exists, paths), paths[0])
