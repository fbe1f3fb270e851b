"""The gateway's database: SQLite in a file, or PostgreSQL, shared by any number of processes."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tff_programs.gateway import tables

# Errors of a database that is unavailable or does not answer in time.
UNAVAILABLE = (DBAPIError, PoolTimeoutError)
_VERSION = "1"
# Maximum number of connections of a process; its threads wait for a free one.
_CONNECTIONS = 8
_WAIT_SECONDS = 30
_WRITES = "gateway_writes"


class Database:
    """Transactions on the gateway's tables.

    Attributes:
      url: SQLAlchemy URL of the database.
    """

    def __init__(self, url: str):
        """Opens a database, and creates tables that do not exist.

        Args:
          url: SQLAlchemy URL: `sqlite:///FILE` or `postgresql://...`.

        Raises:
          ValueError: If the database cannot be opened or has another version.
        """
        self.url = url
        self._engine = _engine(url)
        try:
            self._make_tables()
            with self.read() as connection:
                version = connection.scalar(
                    sqlalchemy.select(tables.facts.c.value).where(tables.facts.c.name == "version")
                )
        except DBAPIError as error:
            raise ValueError(
                f"Expected a database that can be opened at {shown(url)}, received: "
                f"{' '.join(str(error.orig).split())}. Start it, or correct --database."
            ) from error
        if version != _VERSION:
            raise ValueError(
                f"Expected a gateway's database of version {_VERSION} at {shown(url)}, received "
                f"version {version!r}. Use the program that made it, or another database."
            )

    def _make_tables(self) -> None:
        with self.write() as connection:
            if self._engine.dialect.name == "postgresql":
                # Processes that start at the same time create the tables one after the other.
                connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(20220601)"))
            self._check_columns(connection)
            tables.METADATA.create_all(connection)
            first = {"name": "version", "value": _VERSION}
            if not connection.scalar(sqlalchemy.select(tables.facts.c.value)):
                connection.execute(tables.facts.insert().values(first))

    def _check_columns(self, connection: Connection) -> None:
        """Refuses tables of another program before anything is written to them."""
        inspector = sqlalchemy.inspect(connection)
        for name in set(inspector.get_table_names()) & tables.METADATA.tables.keys():
            expected = tables.METADATA.tables[name].columns.keys()
            received = [column["name"] for column in inspector.get_columns(name)]
            if not set(expected) <= set(received):
                raise ValueError(
                    f"Expected a gateway's database at {shown(self.url)}, received one whose "
                    f"table {name!r} has the columns {received} and not {expected}: it is of "
                    "another program or version. Choose another --database or folder."
                )

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Begins a transaction for reading only."""
        with self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Begins a write transaction, committed to disk when the `with` block ends."""
        engine = self._engine.execution_options(**{_WRITES: True})
        with engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()


def insert_new(connection: Connection, table: sqlalchemy.Table, values: Mapping[str, Any]) -> bool:
    """Inserts a row unless its key exists; returns whether it was inserted.

    Waits for the end of another transaction that is inserting a row with the same key.
    """
    row = {**_defaults(table), **values}
    return bool(connection.execute(_insertion(table), row).rowcount)


@functools.lru_cache
def _insertion(table: sqlalchemy.Table):
    # Both databases accept this statement; SQLAlchemy would compile its own form for each row.
    columns = table.columns.keys()
    values = ", ".join(f":{name}" for name in columns)
    return sqlalchemy.text(
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({values}) ON CONFLICT DO NOTHING"
    )


@functools.lru_cache
def _defaults(table: sqlalchemy.Table) -> dict[str, Any]:
    return {column.name: column.default and column.default.arg for column in table.columns}


def shown(url: str) -> str:
    """Returns the URL of a database without its password."""
    return repr(sqlalchemy.engine.make_url(url))


def _parsed(url: str) -> sqlalchemy.engine.URL:
    try:
        return sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise ValueError(
            f"--database: expected sqlite:///FILE or postgresql://..., received {url!r}."
        ) from error


def _engine(url: str):
    parsed = _parsed(url)
    try:
        dialect = parsed.get_backend_name()
        if dialect not in ("sqlite", "postgresql"):
            raise ValueError(
                f"--database: expected sqlite:///FILE or postgresql://..., received {shown(url)}."
            )
        if dialect == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise ValueError(
                f"--database: expected sqlite:///FILE, received {shown(url)}, which is kept in "
                "memory and lost when the server ends."
            )
        if dialect == "sqlite":
            driver = {"connect_args": {"timeout": _WAIT_SECONDS, "check_same_thread": False}}
        else:
            import psycopg2

            driver = {"module": psycopg2, "pool_pre_ping": True}
        engine = sqlalchemy.create_engine(
            parsed,
            future=True,
            poolclass=sqlalchemy.pool.QueuePool,
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=_WAIT_SECONDS,
            # The most recently used connection has its pages in its cache.
            pool_use_lifo=True,
            **driver,
        )
    except ImportError as error:
        raise ValueError(
            f"--database: {shown(url)} needs a driver that is not installed ({error}). Install "
            "fedsup-tf[postgresql]."
        ) from error
    if dialect == "sqlite":
        sqlalchemy.event.listen(engine, "connect", _prepare_sqlite)
        sqlalchemy.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection, record) -> None:
    del record
    # `_begin_sqlite` begins the transactions, not the driver.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    # A committed transaction is on disk.
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection) -> None:
    # A transaction that begins by reading could not wait for another writer later.
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def sqlite_file(url: str) -> str | None:
    """Returns the file of an SQLite database; None for other databases.

    Raises:
      ValueError: If `url` is not the URL of a database.
    """
    parsed = _parsed(url)
    return parsed.database if parsed.get_backend_name() == "sqlite" else None


def sqlite_url(folder: str) -> str:
    """Returns the URL of the SQLite database in a gateway's folder."""
    return f"sqlite:///{os.path.join(os.path.abspath(folder), 'gateway.sqlite')}"
