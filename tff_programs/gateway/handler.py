"""Base class of request handlers: signatures, bounded bodies, JSON answers."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import tornado.web
from sqlalchemy.engine import Connection
from tornado.iostream import StreamClosedError

from fedsup_tf.files.json_schema import quoted
from tff_programs.gateway import signing
from tff_programs.gateway.database import UNAVAILABLE
from tff_programs.gateway.grouped_calls import settle
from tff_programs.gateway.refusal import RefusalError

_MAX_JSON_BYTES = 16 * 1024
# The body of a refused request is read and discarded up to this size, since a client that is cut
# off while sending does not see the answer.
_MAX_DRAINED_BYTES = 64 * 2**20
_RETRY_SECONDS = 30
# Timeout for a client to take a part of a long answer: a stalled one holds a connection and a file.
MAX_PART_SECONDS = 300.0


@tornado.web.stream_request_body
class Handler(tornado.web.RequestHandler):
    """Answers a request, or refuses it before its body is read.

    Methods may raise a `RefusalError` anywhere. Bodies arrive in parts through `take`, which
    collects them unless a subclass overrides it. No body may exceed `max_bytes`.
    """

    def initialize(self, gateway) -> None:
        """Stores the gateway and registers the request with it."""
        self.gateway = gateway
        self._body = bytearray()
        self._refusal: RefusalError | None = None
        gateway.under_way.add(self)

    @property
    def body(self) -> bytes:
        """The collected body."""
        return bytes(self._body)

    def max_bytes(self) -> int:
        """Returns the maximum size of a body, in bytes."""
        return _MAX_JSON_BYTES if self.request.method == "POST" else 0

    async def accept_head(self) -> None:
        """Checks what can be checked before the body is read."""

    def take(self, part: bytes) -> None:
        """Takes a part of the body."""
        self._body += part

    async def prepare(self) -> None:
        """Checks the request before its body is read."""
        if not self._is_implemented(self.request.method):
            if not self._is_short():
                raise tornado.web.HTTPError(405)
            # Tornado refuses the method after the body was discarded.
            return
        try:
            length = self._length()
            await self._guarded(self.accept_head)
            if length > self.max_bytes():
                raise RefusalError(
                    413,
                    "size",
                    f"Expected a body of at most {self.max_bytes():,} bytes, received {length:,}.",
                )
        except RefusalError as refusal:
            self._refusal = refusal
            if not self._is_short():
                self._answer_refusal()

    def _is_implemented(self, method: str) -> bool:
        name = method.lower()
        own = getattr(type(self), name, None)
        return method in self.SUPPORTED_METHODS and own is not getattr(
            tornado.web.RequestHandler, name
        )

    def _is_short(self) -> bool:
        """Returns whether there is a body that may be discarded before the answer."""
        return 0 < (self._content_length() or 0) <= _MAX_DRAINED_BYTES

    def _content_length(self) -> int | None:
        text = self.request.headers.get("Content-Length", "")
        if not text.isdecimal() or not text.isascii():
            return None
        # Python does not convert text of thousands of digits into a number.
        return int(text) if len(text) < 20 else 10**20

    def _length(self) -> int:
        if "Transfer-Encoding" in self.request.headers:
            raise RefusalError(
                411,
                "length",
                "Expected a body with Content-Length, received one in chunks. Send its size.",
            )
        length = self._content_length()
        if length is None and self.request.method == "PUT":
            text = self.request.headers.get("Content-Length")
            received = "none" if text is None else quoted(text)
            raise RefusalError(
                411,
                "length",
                f"Expected Content-Length as a whole number, received {received}. Send the size "
                "of the body.",
            )
        return length or 0

    def data_received(self, chunk: bytes) -> None:
        """Takes a part of the body, unless the request was refused."""
        # The body of a method that the path does not support is discarded.
        if self._refusal is None and self._is_implemented(self.request.method):
            try:
                self.take(chunk)
            except RefusalError as refusal:
                self._refusal = refusal

    async def answer(self, respond: Callable) -> None:
        """Awaits `respond()`, which sends the answer; a refusal is sent in its place."""
        if self._refusal is None:
            try:
                await self._guarded(respond)
                return
            except RefusalError as refusal:
                self._refusal = refusal
        self._answer_refusal()

    async def _guarded(self, call: Callable) -> None:
        """Awaits `call()`; errors of the server become refusals to try again later."""
        try:
            await call()
        except StreamClosedError:
            # The client disconnected and cannot be answered.
            return
        except (*UNAVAILABLE, OSError) as error:
            self.gateway.on_trouble(error)
            raise RefusalError(
                503,
                "unavailable",
                "The server cannot serve now. Come back later.",
                _RETRY_SECONDS,
            ) from error

    def _answer_refusal(self) -> None:
        refusal = self._refusal
        self.gateway.metrics.refused(refusal.code)
        if self._headers_written:
            # A client would take the refusal for a part of the answer that was begun.
            self.request.connection.close()
            return
        # Discard what was prepared for another answer, such as its length.
        self.clear()
        if refusal.retry_after is not None:
            self.set_header("Retry-After", str(refusal.retry_after))
        self.send(refusal.status, {"code": refusal.code, "message": str(refusal)})

    def send(self, status: int, value: Any) -> None:
        """Ends the request with a JSON answer."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(value))

    async def send_part(self, part: bytes) -> None:
        """Sends a part of a long answer; closes the connection if the client stalls.

        Raises:
          StreamClosedError: If the client disconnected or stalled.
        """
        self.write(part)
        try:
            await asyncio.wait_for(self.flush(), MAX_PART_SECONDS)
        except TimeoutError as error:
            self.request.connection.close()
            raise StreamClosedError() from error

    async def in_thread(self, call: Callable, *arguments) -> Any:
        """Runs a call that waits for the disk or the database outside the event loop."""
        future = asyncio.get_running_loop().create_future()

        def run() -> None:
            try:
                settle([(future, call(*arguments), None)])
            except Exception as error:
                settle([(future, None, error)])

        self.gateway.threads.submit(run)
        return await future

    async def read(self, question: Callable[[Connection], Any]) -> Any:
        """Returns the result of a call that reads the database."""
        future = asyncio.get_running_loop().create_future()
        self.gateway.reads.submit(question, future)
        return await future

    async def in_write_transaction(self, change: Callable[[Connection], Any]) -> Any:
        """Returns the result of a call that changes the database, once the change is on disk."""
        future = asyncio.get_running_loop().create_future()
        self.gateway.writes.submit(change, future)
        return await future

    async def prepare_and_write(
        self,
        check: Callable[[], None],
        prepare: Callable[[], Any],
        change: Callable[[Connection, Any], Any],
    ) -> Any:
        """Runs `check`, `prepare` and `change` outside the event loop; returns the last result.

        Each thread hands over to the next, without the event loop in between, until the change is
        on disk.

        Args:
          check: Called first; CPU-bound.
          prepare: Called next; mostly waits for the disk.
          change: Changes the database, given the result of `prepare`.
        """
        future = asyncio.get_running_loop().create_future()
        gateway = self.gateway

        def guarded(call: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                try:
                    call()
                except Exception as error:
                    settle([(future, None, error)])

            return run

        def check_first() -> None:
            check()
            gateway.threads.submit(guarded(prepare_then))

        def prepare_then() -> None:
            result = prepare()
            gateway.writes.submit(lambda connection: change(connection, result), future)

        gateway.checks.submit(guarded(check_first))
        return await future

    def signed_path(self) -> str:
        """Returns the path that the client signed: from `/v1/` on."""
        path = self.request.path
        return path[path.index("/v1/") :]

    def check_signature(self, body_hash: str) -> str:
        """Returns the device that signed the request.

        Args:
          body_hash: SHA-256 of the body, in hexadecimal digits.

        Raises:
          RefusalError: If the signature is missing, wrong or of another time, or the device
            exceeded its rate limit.
        """
        header = self.request.headers.get("Authorization", "")
        credentials = signing.read_authorization(header)
        if credentials is None:
            raise RefusalError(
                401,
                "signature",
                "Expected the header Authorization with Fedsup DEVICE:TIME:SIGNATURE, received "
                f"{'another one' if header else 'none'}. Sign the request.",
            )
        arguments = (self.gateway.secret, self.request.method, self.signed_path(), body_hash)
        if not signing.is_signed(credentials, *arguments):
            raise RefusalError(
                401,
                "signature",
                "Expected a signature under the device's key of this method, path, body and time, "
                "received another one. Sign as docs/gateway_protocol.md says, or enrol again.",
            )
        difference = credentials.time - time.time()
        if abs(difference) > signing.CLOCK_SECONDS:
            raise RefusalError(
                401,
                "time",
                f"Expected a time at most {signing.CLOCK_SECONDS} seconds from the server's, "
                f"received one {difference:+.0f} seconds from it. Take the time of the header "
                "Date.",
            )
        self.gateway.limiter.take(credentials.device)
        return credentials.device

    def check_body_signature(self) -> str:
        """Returns the device that signed the request with its collected body."""
        return self.check_signature(hashlib.sha256(self._body).hexdigest())

    def compute_etag(self) -> None:
        """Returns None: a model's hash is its ETag, and other answers are not cached."""
        return None

    def set_default_headers(self) -> None:
        """Forbids browsers to guess content types, and names the server."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Server", "fedsup")

    def write_error(self, status_code: int, **details) -> None:
        """Answers unforeseen errors as JSON."""
        del details
        codes = {404: "unknown", 405: "method", 400: "request"}
        code = codes.get(status_code, "internal" if status_code >= 500 else "request")
        messages = {
            404: "Expected a path of openapi.json, received another one.",
            405: f"Expected a method of openapi.json, received {self.request.method}.",
        }
        message = messages.get(status_code, self._reason)
        if status_code == 405:
            implemented = filter(self._is_implemented, self.SUPPORTED_METHODS)
            self.set_header("Allow", ", ".join(implemented))
        self.send(status_code, {"code": code, "message": message})

    def on_finish(self) -> None:
        """Counts the request."""
        self.gateway.under_way.discard(self)
        # Clients may invent methods, each of which would get a counter.
        method = self.request.method
        self.gateway.metrics.answered(
            method if method in self.SUPPORTED_METHODS else "other",
            type(self).__name__,
            self.get_status(),
            self.request.request_time(),
        )

    def on_connection_close(self) -> None:
        """Forgets a request whose client disconnected."""
        self.gateway.under_way.discard(self)
        super().on_connection_close()

    def log_exception(self, kind, value, trace) -> None:
        """Reports errors of the program, but not those of clients."""
        if not isinstance(value, tornado.web.HTTPError):
            self.gateway.on_trouble(value)


class UnknownPath(Handler):
    """Answers requests for unknown paths."""

    async def prepare(self) -> None:
        """Refuses the request."""
        raise tornado.web.HTTPError(404)
