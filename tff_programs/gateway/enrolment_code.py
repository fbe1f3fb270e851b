"""Enrolment code for phones: a server's address and token, as a link and as a QR code."""

import io
import json
import urllib.parse

import segno
from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from tff_programs.gateway.database import insert_new
from tff_programs.gateway.tables import facts

_SERVER = "enrolment"


def enrolment_link(server: str, token: str, certificate: str | None) -> str:
    """Returns the enrolment link, which is the text of the code.

    Args:
      server: URL of the server, up to `/v1/`.
      token: The enrolment token.
      certificate: SHA-256 of the server's certificate; None if a public authority signed it.
    """
    fields = {"server": server, "token": token}
    if certificate is not None:
        fields["certificate"] = certificate
    return f"fedsup://enrol?{urllib.parse.urlencode(fields)}"


def keep_server(connection: Connection, server: str, certificate: str | None) -> None:
    """Stores the contents of the code, except for the token, for `kept_link`.

    Args:
      connection: Connection with an open write transaction.
      server: As in `enrolment_link`.
      certificate: As in `enrolment_link`.
    """
    row = {"name": _SERVER, "value": json.dumps([server, certificate])}
    if not insert_new(connection, facts, row):
        connection.execute(update(facts).where(facts.c.name == _SERVER).values(row))


def kept_link(connection: Connection, token: str) -> str | None:
    """Returns the enrolment link of the server that ran last; None if none is stored."""
    kept = connection.scalar(select(facts.c.value).where(facts.c.name == _SERVER))
    if kept is None:
        return None
    server, certificate = json.loads(kept)
    return enrolment_link(server, token, certificate)


def terminal_code(link: str) -> str:
    """Returns a link as a QR code in characters for a terminal."""
    out = io.StringIO()
    segno.make(link, error="m", micro=False).terminal(out, compact=True)
    return out.getvalue()
