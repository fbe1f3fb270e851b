"""Handlers of the operator's requests: the page, its data, metrics and supernets."""

import importlib.resources
import io
import os
import re
import time
from collections.abc import Callable

import segno
import tornado.web
from sqlalchemy import select

from tff_programs.gateway.device_handlers import Health
from tff_programs.gateway.handler import Handler, UnknownPath
from tff_programs.gateway.overview import gauges, overview
from tff_programs.gateway.refusal import RefusalError
from tff_programs.gateway.secret_files import enrolment_token
from tff_programs.gateway.tables import rounds

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_CHUNK_BYTES = 1 << 20


class OperatorHandler(Handler):
    """Answers only browsers on this machine."""

    async def accept_head(self) -> None:
        """Refuses requests whose `Host` is not loopback, which prevents DNS rebinding."""
        # An IPv6 host stands in brackets, with or without a port behind them.
        host = re.sub(r":[0-9]*$", "", self.request.host)
        if host not in _LOOPBACK:
            raise RefusalError(
                403,
                "request",
                f"Expected a request to {' or '.join(_LOOPBACK)}, received one to {host!r}.",
            )

    def set_default_headers(self) -> None:
        """Restricts the page to its own resources and forbids framing it."""
        super().set_default_headers()
        self.set_header(
            "Content-Security-Policy",
            "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        )


class Page(OperatorHandler):
    """GET for the page's files."""

    async def get(self) -> None:
        """Sends a file."""
        await self.answer(self._send_file)

    async def _send_file(self) -> None:
        name, kind = _PAGE[self.request.path]
        file = importlib.resources.files("tff_programs.gateway").joinpath("page", name)
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", "no-cache")
        self.finish(file.read_bytes())


class Overview(OperatorHandler):
    """GET /overview."""

    async def get(self) -> None:
        """Sends the data that the page shows."""
        await self.answer(self._send_overview)

    async def _send_overview(self) -> None:
        self.send(200, await self.in_thread(read_overview, self.gateway))


def read_overview(gateway) -> dict:
    """Returns the state of a gateway; see `overview.overview`."""
    with gateway.database.read() as connection:
        state = overview(connection, time.time())
    # The bytes of sent models are counted by each process and not in the database.
    return {**state, "sent_bytes": gateway.metrics.sent_bytes}


class MetricsText(OperatorHandler):
    """GET /metrics."""

    async def get(self) -> None:
        """Sends the counters."""
        await self.answer(self._send_metrics)

    async def _send_metrics(self) -> None:
        values = await self.in_thread(self._read)
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(self.gateway.metrics.text(values))

    def _read(self) -> dict[str, float]:
        with self.gateway.database.read() as connection:
            return gauges(connection, time.time())


class Code(OperatorHandler):
    """GET /code.svg."""

    async def get(self) -> None:
        """Sends the enrolment code for phones as a QR code."""
        await self.answer(self._draw)

    async def _draw(self) -> None:
        # The token may have been replaced since the server started.
        token = await self.in_thread(enrolment_token, self.gateway.folder)
        out = io.BytesIO()
        code = segno.make(self.gateway.link(token), error="m", micro=False)
        code.save(out, kind="svg", scale=4, light="white")
        self.set_header("Content-Type", "image/svg+xml")
        self.set_header("Cache-Control", "no-store")
        self.finish(out.getvalue())


class SupernetFile(OperatorHandler):
    """GET /supernets/ID."""

    async def get(self, round_id: str) -> None:
        """Sends the supernet that a round started from."""
        self._round_id = int(round_id)
        await self.answer(self._send_supernet)

    async def _send_supernet(self) -> None:
        row = await self.in_thread(self._find)
        if row is None:
            raise RefusalError(404, "unknown", "Expected a round of this server's.")
        path = os.path.join(self.gateway.folder, row.folder, "supernet.safetensors")
        if not await self.in_thread(os.path.exists, path):
            raise RefusalError(404, "unknown", "Expected a round whose files are kept.")
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header(
            "Content-Disposition", f'attachment; filename="supernet_{row.number}.safetensors"'
        )
        with await self.in_thread(open, path, "rb") as file:
            while part := await self.in_thread(file.read, _CHUNK_BYTES):
                await self.send_part(part)
        self.finish()

    def _find(self):
        with self.gateway.database.read() as connection:
            return connection.execute(select(rounds).where(rounds.c.id == self._round_id)).first()


def operator_application(gateway, link: Callable[[str], str]) -> tornado.web.Application:
    """Returns the routes of the operator's page.

    Args:
      gateway: Gateway whose state is shown; its attribute `link` is set.
      link: Returns the text of the enrolment code for a token.
    """
    gateway.link = link
    arguments = {"gateway": gateway}
    routes = [
        *((re.escape(path), Page) for path in _PAGE),
        (r"/overview", Overview),
        (r"/metrics", MetricsText),
        (r"/health", Health),
        (r"/code\.svg", Code),
        (r"/supernets/([0-9]{1,9})", SupernetFile),
    ]
    return tornado.web.Application(
        [(path, handler, arguments) for path, handler in routes],
        default_handler_class=UnknownPath,
        default_handler_args=arguments,
        log_function=lambda handler: None,
    )
