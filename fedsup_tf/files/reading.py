"""Reads untrusted files: only regular files of bounded size, with a single type of error.

Whatever a file contains, a reader built on `reading` returns its value or raises an
`InvalidFileError`, whose message names the file, says what was expected and received, and what to
do.
"""

import codecs
import contextlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

# Maximum size of a text file, far more than people or the programs of this project write.
MAX_TEXT_BYTES = 2**26
REGULAR = "a regular file"
# Maximum length of a reason in an error message, which may quote the file.
_MAX_REASON = 400
_REMEDY = "Write or copy it anew."
# UTF-32 precedes UTF-16, since its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class InvalidFileError(ValueError):
    """Raised if a file is missing, damaged or not of the expected kind."""


@contextlib.contextmanager
def reading(
    path: str | os.PathLike,
    expected: str,
    remedy: str = _REMEDY,
    error_type: type[InvalidFileError] = InvalidFileError,
) -> Iterator[None]:
    """Turns every error of the `with` block that reads a file into one that names the file.

    If the error is a ValueError whose message is a sentence, as in this project, the message is the
    file's name and that sentence. Any other error is quoted as the reason why the file cannot be
    read. All types of errors are caught, since a damaged file makes decoders raise nearly any.

    Args:
      path: The file, for the error message.
      expected: Expected content, such as `"a whole .npz"`.
      remedy: Sentence that says what to do.
      error_type: Type of the error to raise.

    Raises:
      InvalidFileError: If the block raises an error. An `InvalidFileError` passes through as it is,
        as do the exceptions that end a program.
    """
    try:
        yield
    except (InvalidFileError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # Panics of decoders written in Rust are not subclasses of Exception.
    except BaseException as error:
        raise error_type(_sentence(path, expected, remedy, error)) from error


@contextlib.contextmanager
def parsing(what: str) -> Iterator[None]:
    """Turns every error of the function or `with` block that parses a text into a ValueError.

    Args:
      what: Beginning of the error message: what the text is.

    Raises:
      ValueError: If the block raises an error. The exceptions that end a program pass through.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if _is_sentence(error):
            raise
        raise ValueError(
            f"{what}: expected what this version writes, received something that cannot be read "
            f"({_reason(error)}). {_REMEDY}"
        ) from error


def _is_sentence(error: BaseException) -> bool:
    return isinstance(error, ValueError) and str(error).endswith(".")


def _sentence(path, expected: str, remedy: str, error: BaseException) -> str:
    name = repr(os.fspath(path))
    if _is_sentence(error):
        # A sentence already says what to do, unless the reader gives a more specific remedy.
        return f"{name}: {_shortened(str(error))}{'' if remedy == _REMEDY else ' ' + remedy}"
    reason = _reason(error)
    return f"{name}: expected {expected}, received one that cannot be read ({reason}). {remedy}"


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    # Some messages are empty, and some are only a name without context.
    if not text or isinstance(error, KeyError | RecursionError | MemoryError):
        text = f"{type(error).__name__} {text}".strip()
    return _shortened(text.splitlines()[0].rstrip("."))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."


def open_regular(path: str | os.PathLike, expected: str) -> BinaryIO:
    """Opens a regular file to read its bytes.

    Reading anything else could block forever, as with a pipe, or never end, as with a device.

    Args:
      path: The file.
      expected: Expected content, such as `"a JSON file"`.

    Raises:
      InvalidFileError: If the file does not exist, is not regular, or cannot be opened.
    """
    with reading(path, expected, "Check the path and its permissions."):
        try:
            _check_regular(os.stat(path), expected)
            # Does not block either if a pipe has replaced the file since the check.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise ValueError(f"expected {expected}, found none.") from error
        file = os.fdopen(descriptor, "rb")
        try:
            _check_regular(os.fstat(descriptor), expected)
        except BaseException:
            file.close()
            raise
    return file


def _check_regular(status: os.stat_result, expected: str) -> None:
    kind = kind_of_mode(status.st_mode)
    if kind != REGULAR:
        raise ValueError(f"expected {expected}, received {kind}. Give the path of a regular file.")


def kind_of_file(path: str | os.PathLike) -> str:
    """Describes what is at a path: `REGULAR`, another kind such as `"a folder"`, or `"none"`."""
    try:
        return kind_of_mode(os.stat(path).st_mode)
    except FileNotFoundError:
        return "none"


def kind_of_mode(mode: int) -> str:
    """Describes a kind of file by its `st_mode`, as `kind_of_file` does."""
    kinds = {
        REGULAR: stat.S_ISREG,
        "a folder": stat.S_ISDIR,
        "a named pipe": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
        "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
        # Only an unresolved path has this mode.
        "a symbolic link that leads back to itself": stat.S_ISLNK,
    }
    return next((kind for kind, is_one in kinds.items() if is_one(mode)), "no file")


def read_bytes(path: str | os.PathLike, expected: str, max_bytes: int) -> bytes:
    """Returns the content of a regular file.

    Args:
      path: The file.
      expected: Expected content, such as `"a JSON file"`.
      max_bytes: Maximum size of the file.

    Raises:
      InvalidFileError: For the same reasons as `open_regular`, or if the file is larger.
    """
    with reading(path, expected), open_regular(path, expected) as file:
        size = os.fstat(file.fileno()).st_size
        # Files in /proc report a size of 0.
        data = b"" if size > max_bytes else file.read(max_bytes + 1)
        if max(size, len(data)) > max_bytes:
            raise ValueError(
                f"expected {expected} of at most {max_bytes:,} bytes, received "
                f"{max(size, len(data)):,} or more. Give another file."
            )
    return data


def read_text(path: str | os.PathLike, expected: str) -> str:
    """Returns the text of a file in UTF-8, or in the encoding of its byte-order mark.

    Args:
      path: The file.
      expected: Expected content, such as `"a JSON file of a search space"`.

    Raises:
      InvalidFileError: For the same reasons as `read_bytes`, or if the file is not such text.
    """
    data = read_bytes(path, expected, MAX_TEXT_BYTES)
    mark, encoding = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    remedy = "Save it as UTF-8, or as UTF-16 with a byte-order mark."
    with reading(path, f"{expected} as text in {encoding.upper()}", remedy):
        text = data[len(mark) :].decode(encoding)
        if "\0" in text:
            raise ValueError(
                f"expected {expected}, received bytes of value 0, which UTF-16 has without its "
                "byte-order mark. Save it as UTF-8."
            )
        return text
