"""Tests that the gateway refuses databases that are not its own."""

import sqlite3

import pytest

from tff_programs.gateway.database import Database, sqlite_url


@pytest.mark.parametrize("table", ["devices", "facts"])
def test_tables_of_another_program_are_refused_and_stay(table, tmp_path):
    with sqlite3.connect(tmp_path / "gateway.sqlite") as other:
        other.execute(f"CREATE TABLE {table} (a)")
    with pytest.raises(ValueError, match=rf"whose table '{table}' has the columns \['a'\]"):
        Database(sqlite_url(str(tmp_path)))
    with sqlite3.connect(tmp_path / "gateway.sqlite") as other:
        names = [name for (name,) in other.execute("SELECT name FROM sqlite_master")]
    assert names == [table]


def test_a_database_opens_again_beside_tables_of_others(tmp_path):
    with sqlite3.connect(tmp_path / "gateway.sqlite") as other:
        other.execute("CREATE TABLE unrelated (a)")
    for _ in range(2):
        Database(sqlite_url(str(tmp_path))).close()
