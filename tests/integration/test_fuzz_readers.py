"""Tests that readers of mutated files return a value or raise one sentence with the file's name."""

import importlib.util
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "fuzz_readers.py"
SPEC = importlib.util.spec_from_file_location("fuzz_readers", PROGRAM)
fuzz_readers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz_readers)
# Fewer checkpoints, because most of them build a supernet.
EXAMPLES = {"checkpoint": 120}


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz_readers.READERS)
def test_a_reader_ends_in_a_value_or_a_sentence(name, tmp_path):
    examples = EXAMPLES.get(name, 250)
    counts = fuzz_readers.fuzz(name, examples, tmp_path)
    assert counts["refused"] + counts["taken"] >= examples // 2
    assert counts["refused"] > examples // 10


def test_the_fuzzer_sees_what_is_no_sentence(tmp_path):
    def raise_key_error(_):
        raise KeyError("space")

    path = tmp_path / "x"
    path.write_bytes(b"")
    for read, told in (
        (raise_key_error, "KeyError"),
        (lambda _: int("no number"), "no sentence"),
    ):
        with pytest.raises(fuzz_readers.Finding, match=told):
            fuzz_readers.check(fuzz_readers.Reader("x", None, read, None), path)
