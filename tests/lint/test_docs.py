"""Tests that everything named in the pages exists: links, paths, imports, laws and tests."""

import ast
import importlib
import re
import runpy
from pathlib import Path

import pytest

from tff_programs.programs.cli import PROGRAMS

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "android_demo/README.md"]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
# Paths that a page's commands create, or that readers add.
MADE = ("runs/", "dist/", "NAME", "android_demo/build", "android_demo/app/build")
FOLDERS = "fedsup_tf|tflite|tff_programs|tests|benchmarks|experiments|docs|android_demo"
LAWS = (ROOT / "docs/laws.md").read_text(encoding="utf-8").split("\n## ")[1:]


def blocks(text: str, language: str) -> list[str]:
    """Returns the contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files(page):
    links = re.findall(r'\]\(([^)#\s]+)[^)]*\)|src="([^"]+)"', TEXTS[page])
    targets = [a or b for a, b in links if "://" not in (a or b)]
    missing = [name for name in targets if not (ROOT / page).parent.joinpath(name).exists()]
    assert not missing


@pytest.mark.parametrize("page", TEXTS)
def test_paths_in_the_text_exist(page):
    named = re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w/.-]*\w", TEXTS[page])
    missing = [
        name
        for name in named
        if not any(part in name for part in MADE) and not (ROOT / name).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", TEXTS)
def test_names_that_are_imported_exist(page):
    for block in blocks(TEXTS[page], "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), block


@pytest.mark.parametrize("page", TEXTS)
def test_commands_name_programs(page):
    commands = re.findall(r"\bfedsup (\w+)", "\n".join(blocks(TEXTS[page], "bash")))
    assert set(commands) <= set(PROGRAMS)


@pytest.mark.parametrize("number", range(1, 11))
def test_a_law_has_a_test_that_cites_it(number):
    law = LAWS[number - 1]
    assert law.startswith(f"Law {number}: ")
    paths = re.findall(r"`(tests/\S+\.py)`", law)
    assert paths
    for path in paths:
        cited = re.findall(r"\blaw (\d+)", (ROOT / path).read_text(encoding="utf-8").lower())
        assert str(number) in cited, path


def test_every_law_that_is_cited_is_spelled_out():
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        cited = {int(number) for number in re.findall(r"\b[Ll]aws? (\d+)", text)}
        assert cited <= set(range(1, len(LAWS) + 1)), path
        assert not cited or "docs/laws.md" in text or path == Path(__file__), path


def test_pictures_are_what_their_script_draws():
    drawings = runpy.run_path(str(ROOT / "docs/drawings.py"))["DRAWINGS"]
    for name, draw in drawings.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == draw().svg()
