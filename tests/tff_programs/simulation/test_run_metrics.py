"""Tests that a damaged table of metrics is repaired, and missing rounds are reported."""

import pytest

from tff_programs.simulation.run_metrics import mend_table, missing_rounds

HEADER = "round,loss,accuracy/a\r\n"
ROWS = [f"{number},0.{number},\r\n" for number in range(1, 6)]


def write(path, text):
    path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    return str(path)


def test_a_whole_table_is_left_as_it_is(tmp_path):
    path = write(tmp_path / "metrics.csv", HEADER + "".join(ROWS))
    assert mend_table(path) is None
    assert missing_rounds(path, 5) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.csv"]
    assert (tmp_path / "metrics.csv").read_bytes().decode() == HEADER + "".join(ROWS)


def test_no_table_is_none(tmp_path):
    path = str(tmp_path / "metrics.csv")
    assert mend_table(path) is None
    assert missing_rounds(path, 0) is None
    assert "metrics.csv' has no metrics of round 1, " in missing_rounds(path, 1)
    assert "has no metrics of rounds 1 to 3, which" in missing_rounds(path, 3)


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_last_row_that_a_kill_cut_off_is_dropped(tmp_path, cut):
    text = HEADER + "".join(ROWS)
    path = write(tmp_path / "metrics.csv", text[:-cut])
    mend_table(path)
    assert (tmp_path / "metrics.csv").read_bytes().decode() in (text, HEADER + "".join(ROWS[:4]))
    assert missing_rounds(path, 4) is None


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (HEADER + ROWS[0] + "\x00\x01nonsense\r\n" + ROWS[2], [1, 3]),
        (HEADER + ROWS[0] + ROWS[1] + ROWS[0] + ROWS[2], [1, 2, 3]),
        (HEADER + ROWS[0] + "2,0.2\r\n" + ROWS[2], [1, 3]),
        (HEADER + "-1,0.2,\r\n" + ROWS[2], [3]),
        (HEADER + ROWS[0] + "2,abc,\r\n" + ROWS[2], [1, 3]),
        (HEADER + '1,"0.2,\r\n' + ROWS[2], [3]),
        ("loss\r\n0.3\r\n", []),
        ("\udcff\udcfe\r\n", []),
        ("", []),
    ],
)
def test_whole_rows_of_a_broken_table_are_kept_and_it_is_said(tmp_path, text, whole):
    path = write(tmp_path / "metrics.csv", text)
    before = (tmp_path / "metrics.csv").read_bytes()
    line = mend_table(path)
    assert f"The {len(whole)} whole rows are kept; the file as it was is" in line
    assert (tmp_path / "metrics.csv.broken").read_bytes() == before
    missing = [number for number in (1, 2, 3) if number not in whole]
    line = missing_rounds(path, 3)
    assert (line is None) == (not missing)
    assert mend_table(path) is None
