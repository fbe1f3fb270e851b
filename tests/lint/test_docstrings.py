"""Tests that no docstring begins with a word such as What or How."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fedsup_tf", "tflite", "tff_programs")
POINTING = {
    *("What", "How", "Of", "As", "See", "Those", "Theirs", "Which", "Who", "When", "Whether"),
}


def first_words(source: str) -> dict[int, str]:
    """Returns the first word of each docstring, by the line of the object that it describes."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        getattr(node, "lineno", 1): docstring.split()[0].rstrip(".,:;")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node))
    }


def faults(path: Path) -> list[str]:
    """Returns the places of the docstrings in a file that begin with such a word."""
    words = first_words(path.read_text(encoding="utf-8"))
    name = path.relative_to(ROOT).as_posix()
    return [f"{name}:{line}: {word}" for line, word in words.items() if word in POINTING]


def test_first_words_are_those_of_every_kind_of_docstring():
    source = (
        '"""Module one."""\nclass A:\n    """Class two."""\n    def b(self):\n        r"""See."""\n'
    )
    assert list(first_words(source).values()) == ["Module", "Class", "See"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_docstring_points_at_what_it_describes(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert not [fault for path in files for fault in faults(path)]
