"""The common part of all requests: signatures, bounded bodies, answers that are JSON."""

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

_MOST_JSON_BYTES = 16 * 1024
# A body of a refused request is read and thrown away up to this size, since a client that is cut
# off while it sends does not see the answer.
_MOST_DRAINED_BYTES = 64 * 2**20
_RETRY_SECONDS = 30
# In which a client takes a part of a long answer, or holds a connection and a file for nothing.
MOST_PART_SECONDS = 300.0


@tornado.web.stream_request_body
class Handler(tornado.web.RequestHandler):
    """Answers a request, or refuses it before its body is read.

    Methods may raise a `RefusalError` anywhere. Bodies come in parts through `take`; unless a
    subclass overrides it they are kept, up to `most_bytes`.
    """

    def initialize(self, gateway) -> None:
        """Keeps the gateway that answers."""
        self.gateway = gateway
        self._body = bytearray()
        self._refusal: RefusalError | None = None
        gateway.under_way.add(self)

    @property
    def body(self) -> bytes:
        """The body, if it was kept."""
        return bytes(self._body)

    def most_bytes(self) -> int:
        """Returns the size of the largest body that is read."""
        return _MOST_JSON_BYTES if self.request.method == "POST" else 0

    async def accept_head(self) -> None:
        """Checks what can be checked before the body is read."""

    def take(self, part: bytes) -> None:
        """Takes a part of the body."""
        self._body += part

    async def prepare(self) -> None:
        """Checks the request's head."""
        if not self._is_implemented(self.request.method):
            if not self._is_short():
                raise tornado.web.HTTPError(405)
            # Tornado refuses it once its body was thrown away.
            return
        try:
            length = self._length()
            await self._guarded(self.accept_head)
            if length > self.most_bytes():
                raise RefusalError(
                    413,
                    "size",
                    f"Expected a body of at most {self.most_bytes():,} bytes, received {length:,}.",
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
        """Returns whether there is a body that may be thrown away before the answer."""
        return 0 < (self._content_length() or 0) <= _MOST_DRAINED_BYTES

    def _content_length(self) -> int | None:
        text = self.request.headers.get("Content-Length", "")
        if not text.isdecimal() or not text.isascii():
            return None
        # Python turns no text of thousands of digits into a number.
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
        """Takes a part of the body, unless the request is refused already."""
        # Of a method that the path lacks nothing is kept.
        if self._refusal is None and self._is_implemented(self.request.method):
            try:
                self.take(chunk)
            except RefusalError as refusal:
                self._refusal = refusal

    async def answer(self, respond: Callable) -> None:
        """Answers with what `respond` returns or raises."""
        if self._refusal is None:
            try:
                await self._guarded(respond)
                return
            except RefusalError as refusal:
                self._refusal = refusal
        self._answer_refusal()

    async def _guarded(self, call: Callable) -> None:
        """Calls a coroutine; errors of the server become answers to try again."""
        try:
            await call()
        except StreamClosedError:
            # The client went away, and nothing more can be told to it.
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
            # A client would take the answer for a part of the one that has begun.
            self.request.connection.close()
            return
        # Of the answer that was prepared nothing stays, such as a length.
        self.clear()
        if refusal.retry_after is not None:
            self.set_header("Retry-After", str(refusal.retry_after))
        self.send(refusal.status, {"code": refusal.code, "message": str(refusal)})

    def send(self, status: int, value: Any) -> None:
        """Ends the request with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(value))

    async def send_part(self, part: bytes) -> None:
        """Sends a part of a long answer; ends a connection that does not take it.

        Raises:
          StreamClosedError: If the client went away or takes nothing.
        """
        self.write(part)
        try:
            await asyncio.wait_for(self.flush(), MOST_PART_SECONDS)
        except TimeoutError as error:
            self.request.connection.close()
            raise StreamClosedError() from error

    async def in_thread(self, call: Callable, *arguments) -> Any:
        """Runs a call that waits for the disk or the database beside the event loop."""
        future = asyncio.get_running_loop().create_future()

        def run() -> None:
            try:
                settle([(future, call(*arguments), None)])
            except Exception as error:
                settle([(future, None, error)])

        self.gateway.threads.submit(run)
        return await future

    async def read(self, question: Callable[[Connection], Any]) -> Any:
        """Returns what a call read from the database."""
        future = asyncio.get_running_loop().create_future()
        self.gateway.reads.submit(question, future)
        return await future

    async def written(self, change: Callable[[Connection], Any]) -> Any:
        """Returns what a change of the database returned, once it is on the disk."""
        future = asyncio.get_running_loop().create_future()
        self.gateway.writes.submit(change, future)
        return await future

    async def prepared_and_written(
        self,
        check: Callable[[], None],
        prepare: Callable[[], Any],
        change: Callable[[Connection, Any], Any],
    ) -> Any:
        """Returns what a change returned that writes the result of calls beside the event loop.

        The result goes from thread to thread until it is on the disk.

        Args:
          check: Called first; it works more than it waits.
          prepare: Called then; it waits more than it works.
          change: Changes the database by what `prepare` returned.
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
        """Returns the path that is signed, which is the one that this server sees."""
        path = self.request.path
        return path[path.index("/v1/") :]

    def check_signature(self, body_hash: str) -> str:
        """Returns the device that signed the request.

        Args:
          body_hash: SHA-256 of the body.

        Raises:
          RefusalError: If none did, or the device asks too often.
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
        """Returns the device that signed the request and the body that was kept."""
        return self.check_signature(hashlib.sha256(self._body).hexdigest())

    def compute_etag(self) -> None:
        """Returns none: a model's hash is its tag, and other answers are not kept."""
        return None

    def set_default_headers(self) -> None:
        """Tells browsers to take nothing for what it is not."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Server", "fedsup")

    def write_error(self, status_code: int, **details) -> None:
        """Answers what nobody foresaw as JSON."""
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
        # Anybody may make up methods, each of which would be a counter.
        method = self.request.method
        self.gateway.metrics.answered(
            method if method in self.SUPPORTED_METHODS else "other",
            type(self).__name__,
            self.get_status(),
            self.request.request_time(),
        )

    def on_connection_close(self) -> None:
        """Forgets a request whose client went away."""
        self.gateway.under_way.discard(self)
        super().on_connection_close()

    def log_exception(self, kind, value, trace) -> None:
        """Tells of errors of the program; a client's are its own."""
        if not isinstance(value, tornado.web.HTTPError):
            self.gateway.on_trouble(value)


class UnknownPath(Handler):
    """Answers paths that there are not."""

    async def prepare(self) -> None:
        """Refuses."""
        raise tornado.web.HTTPError(404)
