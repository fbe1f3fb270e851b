"""Handlers of device requests: enrolment, check-in, models, updates, status."""

import hmac
import os
import re
import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection

from tff_programs.gateway import check_in, devices, uploads
from tff_programs.gateway.handler import Handler
from tff_programs.gateway.json_body import parse_check_in, parse_enrolment
from tff_programs.gateway.refusal import RefusalError
from tff_programs.gateway.secret_files import enrolment_token
from tff_programs.gateway.tables import models, rounds, updates
from tff_programs.gateway.upload_body import UploadBody
from tff_programs.gateway.version import version
from tflite.together.federation import PROTOCOL
from tflite.together.signing import EMPTY_HASH

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_MAX_TOLD = 10


class Health(Handler):
    """GET /health."""

    async def get(self) -> None:
        """Answers after a successful database query."""
        await self.answer(self._send_health)

    async def _send_health(self) -> None:
        await self.read(uploads.current_number)
        self.send(200, {"protocol": PROTOCOL, "version": version()})


class Enrol(Handler):
    """POST /v1/enrol."""

    async def post(self) -> None:
        """Enrols a device."""
        await self.answer(self._enrol)

    async def _enrol(self) -> None:
        token = parse_enrolment(self.body)
        expected = await self.in_thread(enrolment_token, self.gateway.folder)
        if not hmac.compare_digest(token.encode(), expected.encode()):
            raise RefusalError(
                403,
                "token",
                "Expected the enrolment token of this server, received another one. Scan the code "
                "that the server shows.",
            )
        device, key = await self.in_write_transaction(self._write)
        self.send(201, {"device": device, "key": key.hex()})

    def _write(self, connection: Connection) -> devices.NewDevice:
        gateway = self.gateway
        return devices.enrol(connection, gateway.secret, time.time(), gateway.max_devices)


class CheckIn(Handler):
    """POST /v1/check-in."""

    async def post(self) -> None:
        """Sends a task, or no task."""
        await self.answer(self._check_in)

    async def _check_in(self) -> None:
        device = self.check_body_signature()
        fields = parse_check_in(self.body)
        training, now = self.gateway.training, time.time()
        state = await self.read(
            lambda connection: check_in.read_state(connection, device, fields, training, now)
        )
        task = state.task
        if state.is_written:
            task = await self.in_write_transaction(
                lambda connection: check_in.record_check_in(
                    connection, device, fields, state, training, now
                )
            )
        answer: dict[str, Any] = {"wait_seconds": self.gateway.wait_seconds()}
        message = check_in.message(state, task, training, now)
        if message is not None:
            answer["task"] = message
        self.send(200, answer)


class Model(Handler):
    """GET /v1/models/HASH."""

    async def get(self, hash_: str) -> None:
        """Sends a model or a range of it."""
        self._hash = hash_
        await self.answer(self._send_model)

    async def _send_model(self) -> None:
        device = self.check_signature(EMPTY_HASH)
        path, size = await self.read(lambda connection: self._find(connection, device))
        self.set_header("ETag", f'"{self._hash}"')
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Cache-Control", "private, max-age=31536000, immutable")
        held = self.request.headers.get("If-None-Match", "")
        if held.strip() == "*" or self._hash in re.findall(r'"([^"]*)"', held):
            self.set_status(304)
            self.finish()
            return
        begin, end = 0, size
        wanted = _RANGE.fullmatch(self.request.headers.get("Range", ""))
        # A client that holds a part of another file must not append a part of this one.
        is_of_this = self.request.headers.get("If-Range", f'"{self._hash}"') == f'"{self._hash}"'
        if wanted and any(wanted.groups()) and is_of_this:
            begin, end = _range(wanted, size)
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", str(end - begin))
        with await self.in_thread(open, path, "rb") as file:
            file.seek(begin)
            while begin < end:
                part = await self.in_thread(file.read, min(_CHUNK_BYTES, end - begin))
                if not part:
                    raise OSError(f"{path!r} is shorter than it was.")
                begin += len(part)
                self.gateway.metrics.sent(len(part))
                await self.send_part(part)
        self.finish()

    def _find(self, connection: Connection, device: str) -> tuple[str, int]:
        devices.check_enrolled(connection, device)
        row = connection.execute(select(models).where(models.c.hash == self._hash)).first()
        if row is None:
            raise RefusalError(
                404,
                "unknown",
                f"Expected the hash of a model of this server, received {self._hash[:12]}. Check "
                "in again.",
            )
        return os.path.join(self.gateway.folder, row.path), row.bytes


def _range(wanted: re.Match, size: int) -> tuple[int, int]:
    """Returns the first byte of a range and the one after its last."""
    first, last = wanted.groups()
    if first:
        begin = int(first)
        end = min(int(last) + 1, size) if last else size
    else:
        # A suffix range: the last bytes of the file.
        begin, end = max(0, size - int(last)), size
    if begin >= end:
        raise RefusalError(
            416,
            "range",
            f"Expected a range within the file's {size:,} bytes, received {wanted[0]}. Get the "
            "whole file.",
        )
    return begin, end


class Update(Handler):
    """PUT /v1/tasks/TASK/updates/HASH."""

    def initialize(self, gateway) -> None:
        """Prepares an empty body."""
        super().initialize(gateway)
        self._upload = UploadBody(gateway.folder, gateway.memory_budget)
        self._expected: uploads.Expected | None = None
        self._is_there = False

    def max_bytes(self) -> int:
        """Returns the maximum size of an update of the task, in bytes."""
        return self._expected.max_bytes if self._expected else 0

    async def accept_head(self) -> None:
        """Decides from the signature and the task whether to read the body."""
        self._task, self._hash = self.path_args
        device = self.check_signature(self._hash)
        try:
            self._expected, self._is_there = await self.read(
                lambda connection: uploads.expect_update(
                    connection, device, self._task, self._hash, self.gateway.max_staleness
                )
            )
        except RefusalError as refusal:
            await self._count(refusal)
            raise

    def take(self, part: bytes) -> None:
        """Takes a part of the body, unless the update was accepted before."""
        if self._is_there:
            return
        try:
            self._upload.take(part)
        except OSError as error:
            self.gateway.on_trouble(error)
            raise RefusalError(
                503, "unavailable", "The server cannot keep the update now. Come back later.", 600
            ) from error
        self.gateway.metrics.received(len(part))

    async def put(self, task: str, hash_: str) -> None:
        """Accepts the update."""
        del task, hash_
        await self.answer(self._accept)

    async def _accept(self) -> None:
        is_new = False
        if not self._is_there:
            body = self._upload.hand_over()
            try:
                request = (self._hash, self._expected)
                is_new = await self.prepare_and_write(
                    lambda: body.check(*request), lambda: body.keep(*request), self._record_update
                )
            except RefusalError as refusal:
                await self._count(refusal)
                raise
            finally:
                body.release_memory()
        self.send(
            201 if is_new else 200,
            {
                "update": self._hash,
                "round": self._expected.round,
                "wait_seconds": self.gateway.wait_seconds(),
            },
        )

    def _record_update(self, connection: Connection, values: dict[str, Any]) -> bool:
        return uploads.record_update(connection, values, self.gateway.max_staleness, time.time())

    async def _count(self, refusal: RefusalError) -> None:
        await self.in_write_transaction(
            lambda connection: uploads.count_refusal(connection, refusal.code)
        )

    def on_connection_close(self) -> None:
        """Discards the body of a broken transfer."""
        self._upload.discard()
        super().on_connection_close()

    def send(self, status: int, value: Any) -> None:
        """Discards a body that was refused, then ends the request."""
        self._upload.discard()
        super().send(status, value)


class Status(Handler):
    """GET /v1/status."""

    async def get(self) -> None:
        """Sends the outcomes of the device's updates."""
        await self.answer(self._send_status)

    async def _send_status(self) -> None:
        device = self.check_signature(EMPTY_HASH)
        self.send(200, await self.read(lambda connection: _status(connection, device)))


def _status(connection: Connection, device: str) -> dict[str, Any]:
    """Returns the outcomes of a device's latest updates."""
    devices.check_enrolled(connection, device)
    rows = connection.execute(
        select(updates.c.hash, updates.c.state, updates.c.reason, rounds.c.number)
        .join(rounds, rounds.c.id == updates.c.round_id)
        .where(updates.c.device == device)
        .order_by(updates.c.received.desc())
        .limit(_MAX_TOLD)
    ).all()
    told = [
        {"update": row.hash, "round": row.number, "state": row.state, "reason": row.reason}
        for row in rows
    ]
    return {"round": uploads.current_number(connection), "updates": told}
