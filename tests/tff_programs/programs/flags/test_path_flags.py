"""Tests of path flags: `~` is expanded, and unwritable paths are refused immediately."""

import os

import pytest
from absl import flags

from tff_programs.programs.cli import PROGRAMS
from tff_programs.programs.flags.path_flags import KINDS
from tff_programs.programs.flags.program_flags import parse_flags


def parse(kind, *argv):
    options, arguments = parse_flags(
        lambda define: getattr(define, kind)("out", None, "A path."), ["program", *argv]
    )
    return options.out, arguments


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("kind", ["path", "output_file", "output_folder"])
def test_the_home_folder_stands_for_its_sign(home, kind):
    assert parse(kind, "--out=~/x/y", "~/z") == (f"{home}/x/y", [f"{home}/z"])
    assert parse(kind, "--out=smallest") == ("smallest", [])
    assert parse(kind) == (None, [])
    assert not list(home.iterdir())


def test_the_home_folder_stands_for_its_sign_in_lists_and_flag_files(home):
    (home / "file.flags").write_text("--out=smallest,~/net.json,~/b.json@0.5\n")
    expected = ["smallest", f"{home}/net.json", f"{home}/b.json@0.5"]
    assert parse("paths", "--out=smallest,~/net.json,~/b.json@0.5") == (expected, [])
    assert parse("paths", f"--flagfile={home}/file.flags") == (expected, [])


def test_what_cannot_be_written_is_refused_when_the_flag_is_read(home):
    os.mkfifo(home / "pipe")
    (home / "file").write_text("mine")
    for kind, value, told in (
        ("output_file", "~/pipe", "received a named pipe"),
        ("output_file", str(home), "expected a file's path, received a folder's"),
        ("output_file", "/dev/null", "received a device"),
        ("output_file", "~/file/x", f"expected a folder at '{home}/file', received a regular file"),
        ("output_folder", "~/file", f"expected a folder at '{home}/file', received a regular file"),
        ("output_folder", "~/pipe/x", "received a named pipe"),
    ):
        with pytest.raises(flags.IllegalFlagValueError, match=told):
            parse(kind, f"--out={value}")
    assert sorted(entry.name for entry in home.iterdir()) == ["file", "pipe"]


def test_a_data_set_is_a_name_or_a_path_in_the_home_folder(home):
    (home / "pictures").mkdir()
    assert parse("dataset", "--out=~/pictures")[0] == str(home / "pictures")
    assert parse("dataset", "--out=digits")[0] == "digits"
    with pytest.raises(flags.IllegalFlagValueError, match="found nothing at"):
        parse("dataset", "--out=~/none")


# Flags whose help has one of these words are paths, and must be declared as paths.
_WORDS = ("folder", "file", "path", "supernet", "checkpoint")
_PARSERS = {type(parser) for parser, _ in KINDS.values()}
_NO_PATHS = {"max_file_kilobytes", "quantize", "compare", "batch_size", "runtimes", "server"}


def test_every_flag_whose_help_names_a_file_is_declared_as_a_path():
    import importlib

    from tff_programs.programs.flags.program_flags import ProgramFlags

    for name in PROGRAMS:
        program = importlib.import_module(f"tff_programs.programs.{name}")
        options = ProgramFlags(program.define_flags)
        for flag in options:
            help_text = (options[flag].help or "").lower()
            if options[flag].flag_type() not in ("string", "comma separated list of strings"):
                continue
            is_path = type(options[flag].parser) in _PARSERS
            if flag not in _NO_PATHS and any(word in help_text for word in _WORDS):
                assert is_path, f"fedsup {name} --{flag}: {help_text}"
