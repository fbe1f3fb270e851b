"""Databases for tests of the gateway: SQLite, and a PostgreSQL server that the tests start."""

import contextlib
import glob
import itertools
import os
import shutil
import subprocess
import tempfile

import psycopg2
import pytest

from tff_programs.gateway.database import sqlite_url

_NUMBERS = itertools.count()


def _program(name):
    """Returns the path of a PostgreSQL program, which Debian does not put in PATH."""
    found = [shutil.which(name), *sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))]
    paths = [path for path in found if path]
    assert paths, "Expected PostgreSQL on this machine. Install Debian's package postgresql."
    return paths[0]


@pytest.fixture(scope="session")
def postgresql():
    """Yields the folder with the socket of a PostgreSQL server that only its user and root reach.

    In containers, tests run as root, and PostgreSQL refuses to do so.
    """
    folder = tempfile.mkdtemp(prefix="fedsup-postgresql-", dir="/tmp")
    switch = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if switch:
        shutil.chown(folder, "postgres")
    data = os.path.join(folder, "data")
    run = dict(check=True, cwd=folder, stdout=subprocess.DEVNULL)
    initdb = [_program("initdb"), f"--pgdata={data}", "--username=fedsup", "--auth=trust"]
    subprocess.run([*switch, *initdb, "--no-sync"], **run)
    control = [*switch, _program("pg_ctl"), f"--pgdata={data}", "--wait"]
    # Do not listen on a TCP port.
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
    log = os.path.join(folder, "log")
    subprocess.run([*control, f"--log={log}", f"--options={options}", "start"], **run)
    try:
        yield folder
    finally:
        subprocess.run([*control, "--mode=immediate", "stop"], **run)
        shutil.rmtree(folder)


def _postgresql_url(folder):
    """Returns the URL of a new database."""
    name = f"gateway_{os.getpid()}_{next(_NUMBERS)}"
    with contextlib.closing(
        psycopg2.connect(host=folder, user="fedsup", dbname="postgres")
    ) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
    return f"postgresql://fedsup@/{name}?host={folder}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """Yields the URL of an empty database, for each kind of database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    return _postgresql_url(request.getfixturevalue("postgresql"))
