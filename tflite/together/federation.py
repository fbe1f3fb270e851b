"""A device's requests to a gateway: enrolment, check-in, model, update, status.

`Federation` implements the protocol of docs/gateway_protocol.md with the standard library alone.
Unanswered requests are repeated, which the protocol allows for all of them.
"""

import contextlib
import dataclasses
import email.utils
import hashlib
import itertools
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from fedsup_tf.files.atomic_write import make_folder
from fedsup_tf.files.json_schema import quoted
from tflite.together.address import ServerAddress
from tflite.together.connection import Answer, Connection
from tflite.together.errors import FederationError, RefusedError, UnavailableError
from tflite.together.signing import EMPTY_HASH, authorization

PROTOCOL = 1
_FIRST_PAUSE_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 300.0
# Maximum time until the next check-in, whatever the server says.
_MAX_WAIT_SECONDS = 7 * 24 * 3600
# Bounds of a task's whole numbers and of its learning rate, as in the protocol.
_BOUNDS = {
    "round": (0, 2**31 - 1),
    "model_bytes": (1, 2**28),
    "epochs": (1, 1000),
    "seed": (0, 2**63 - 1),
}
_MAX_LEARNING_RATE = 1000


@dataclasses.dataclass(frozen=True)
class Identity:
    """Identity of a device at a server.

    Attributes:
      device: Identifier of the device, 32 hexadecimal digits.
      key: Key with which the device signs, 32 bytes.
    """

    device: str
    key: bytes = dataclasses.field(repr=False)


class Federation:
    """Client of one server for one device.

    For a running server that printed the enrolment link `link`:

        federation = Federation(parse_link(link))
        federation.check_server()
        identity = federation.enrol()
        fields = {"tier": "smallest", "runtime": "litert 2", "application": "mine 1.0"}
        answer = federation.check_in(fields)
    """

    def __init__(
        self,
        address: ServerAddress,
        identity: Identity | None = None,
        attempts: int = 5,
        sleep: Callable[[float], None] = time.sleep,
        connection: Connection | None = None,
    ):
        """Creates the client; no request is sent.

        Args:
          address: The server.
          identity: Identity of the device, if it is already enrolled.
          attempts: Maximum number of times that a request is sent, from 1.
          sleep: Waits for a number of seconds between attempts.
          connection: Connection to use; by default a `Connection` to `address`.

        Raises:
          FederationError: If the authority's file is not a certificate.
        """
        self.address = address
        self.identity = identity
        self._attempts = attempts
        self._sleep = sleep
        self._connection = connection or Connection(address)
        # Seconds by which the server's clock is ahead.
        self._clock_offset = 0

    def check_server(self) -> str:
        """Checks the server's protocol, and returns the version of its program.

        Raises:
          FederationError: If the server has another version of the protocol, or none.
        """
        fields = self._ask_anyone("GET", "/health", {})
        if fields.get("protocol") != PROTOCOL:
            raise FederationError(
                f"{self.address.url}: expected a server of protocol version {PROTOCOL}, received "
                f"{quoted(fields.get('protocol'))}. Install the version of fedsup-tf that the "
                f"server has ({quoted(fields.get('version'))})."
            )
        return str(fields.get("version"))

    def enrol(self) -> Identity:
        """Enrols this device, and returns its identity, which must be kept.

        Raises:
          FederationError: If there is no token, or the server refuses the token.
        """
        if not self.address.token:
            raise FederationError(
                f"{self.address.url}: expected the token of enrolment, received none. Give the "
                "link that the server prints, or its token."
            )
        body = json.dumps({"token": self.address.token}).encode()
        headers = {"Content-Type": "application/json"}
        fields = self._ask_anyone("POST", "/v1/enrol", headers, body)
        device, key = fields.get("device"), fields.get("key")
        if not is_identity(device, key):
            raise self._no_protocol("an identity and a key", sorted(fields))
        self.identity = Identity(device, bytes.fromhex(key))
        return self.identity

    def check_in(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Asks for a task.

        Args:
          fields: `tier` or `capability`, `runtime`, `application` and, if there is one, `model`.

        Returns:
          `wait_seconds`, and `task` if there is one, both validated.

        Raises:
          FederationError: If the device was revoked, or its tier is unknown.
        """
        body = json.dumps(fields).encode()
        try:
            answer = self._repeat(lambda: self._signed("POST", "/v1/check-in", body).json())
        except RefusedError as error:
            raise FederationError(str(error)) from error
        answer["wait_seconds"] = self._wait_seconds(answer)
        if "task" in answer:
            task = answer["task"]
            if not isinstance(task, dict):
                raise self._no_protocol("a task", task)
            for name in ("task", "model"):
                _hexadecimal(task, name, {"task": 32, "model": 64}[name], self._no_protocol)
            for name, (minimum, maximum) in _BOUNDS.items():
                _whole(task, name, minimum, maximum, self._no_protocol)
            rate = task.get("learning_rate")
            if type(rate) not in (int, float) or not 0 < rate <= _MAX_LEARNING_RATE:
                raise self._no_protocol(
                    f"a learning rate above 0, of at most {_MAX_LEARNING_RATE}", rate
                )
        return answer

    def fetch_model(self, hash_: str, size: int, path: str | os.PathLike) -> None:
        """Downloads a model, resuming the partial download of an earlier call.

        Args:
          hash_: SHA-256 of the model.
          size: Size of the model in bytes.
          path: Path of the complete model; a partial download has the suffix `.part`.

        Raises:
          UnavailableError: If the transfer keeps failing, in which case the received part is kept,
            or if the model has another hash.
          RefusedError: If the server no longer has the model.
          OSError: If the file cannot be written.
        """
        make_folder(os.path.dirname(os.path.abspath(path)))
        part = f"{os.fspath(path)}.part"
        self._repeat(lambda: self._fetch_rest(hash_, size, part))
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != hash_:
            os.remove(part)
            raise UnavailableError(
                f"Expected the model {hash_[:12]}..., received bytes of SHA-256 {found[:12]}.... "
                "They were thrown away."
            )
        os.replace(part, path)

    def _fetch_rest(self, hash_: str, size: int, part: str) -> None:
        held = os.path.getsize(part) if os.path.exists(part) else 0
        if held > size:
            os.remove(part)
            held = 0
        if held == size:
            return
        headers = {"Range": f"bytes={held}-"} if held else {}
        answer = self._signed("GET", f"/v1/models/{hash_}", headers=headers)
        is_rest = answer.status == 206
        with open(part, "ab" if is_rest else "wb") as file:
            for received in answer.parts:
                file.write(received)
                if file.tell() > size:
                    raise FederationError(
                        f"Expected a model of {size:,} bytes, received more. Check the server."
                    )
            file.flush()
            os.fsync(file.fileno())
        if os.path.getsize(part) < size:
            raise UnavailableError(f"Expected a model of {size:,} bytes, received fewer.")

    def send_update(self, task: str, data: bytes) -> dict[str, Any]:
        """Sends an update, which counts once even if it is sent again.

        Args:
          task: Identifier of the task.
          data: Bytes of the update file.

        Returns:
          `update`, `round` and `wait_seconds`.

        Raises:
          UnavailableError: If there is no answer; the update must be kept and sent again.
          RefusedError: If the update cannot be used.
          FederationError: If the answer is not one of the protocol.
        """
        hash_ = hashlib.sha256(data).hexdigest()
        path = f"/v1/tasks/{task}/updates/{hash_}"
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._repeat(lambda: self._signed("PUT", path, data, headers).json())
        return {**answer, "wait_seconds": self._wait_seconds(answer)}

    def status(self) -> dict[str, Any]:
        """Returns `round`, and the device's latest `updates` with their outcomes."""
        answer = self._repeat(lambda: self._signed("GET", "/v1/status").json())
        _whole(answer, "round", 0, 2**63 - 1, self._no_protocol)
        updates = answer.get("updates")
        if not isinstance(updates, list) or not all(map(_is_outcome, updates)):
            raise self._no_protocol("the outcomes of updates", updates)
        return answer

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def _ask_anyone(self, *request) -> dict[str, Any]:
        """Sends a request that needs no identity; a path that is unknown is that of another server.

        Raises:
          FederationError: If the server refuses it.
        """
        try:
            return self._repeat(lambda: self._connection.send(*request).json())
        except RefusedError as error:
            raise FederationError(
                f"{self.address.url}: {error} Check that the address is that of a `fedsup serve`, "
                "as it prints it behind 'serving on'."
            ) from error

    def _signed(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        try:
            return self._sign_and_send(method, path, body, headers or {})
        except RefusedError as error:
            if error.code != "time" or error.date is None:
                raise
            with contextlib.suppress(ValueError, TypeError):
                server = email.utils.parsedate_to_datetime(error.date).timestamp()
                self._clock_offset = round(server - time.time())
        return self._sign_and_send(method, path, body, headers or {})

    def _sign_and_send(self, method, path, body, headers) -> Answer:
        if self.identity is None:
            raise FederationError("Expected a device that enrolled, received one that did not.")
        header = authorization(
            self.identity.device,
            self.identity.key,
            method,
            path,
            hashlib.sha256(body).hexdigest() if body else EMPTY_HASH,
            int(time.time()) + self._clock_offset,
        )
        return self._connection.send(method, path, {**headers, "Authorization": header}, body)

    def _repeat(self, send: Callable[[], Any]) -> Any:
        """Sends a request until it is answered, with exponential backoff."""
        for attempt in itertools.count(1):
            try:
                return send()
            except RefusedError as error:
                # The device cannot resolve these by itself.
                if error.status in (401, 403):
                    raise FederationError(f"{self.address.url}: {error}") from error
                raise
            except UnavailableError as error:
                # A visit does not wait for hours: the caller comes back later.
                if attempt >= self._attempts or (error.seconds or 0) > _MAX_PAUSE_SECONDS:
                    raise
                maximum = min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
                # Random jitter keeps devices from coming back at the same time.
                wait = random.uniform(maximum / 2, maximum)
                self._sleep(max(wait, error.seconds or 0))

    def _wait_seconds(self, answer: Mapping[str, Any]) -> int:
        _whole(answer, "wait_seconds", 1, 2**63 - 1, self._no_protocol)
        return min(answer["wait_seconds"], _MAX_WAIT_SECONDS)

    def _no_protocol(self, expected: str, received: Any) -> FederationError:
        return FederationError(
            f"{self.address.url}: expected {expected} as the protocol has it, received "
            f"{quoted(received)}. Check that the address is that of a `fedsup serve`."
        )


def _whole(
    fields: Mapping[str, Any], name: str, minimum: int, maximum: int, error: Callable
) -> None:
    value = fields.get(name)
    if type(value) is not int or not minimum <= value <= maximum:
        raise error(f"{name} as a whole number from {minimum} to {maximum}", value)


def _hexadecimal(fields: Mapping[str, Any], name: str, digits: int, error: Callable) -> None:
    value = fields.get(name)
    if not _is_hexadecimal(value, digits):
        raise error(f"{name} as {digits} hexadecimal digits", value)


def _is_outcome(value: Any) -> bool:
    texts = ("update", "state", "reason")
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in texts)


def is_identity(device: Any, key: Any) -> bool:
    """Returns whether values are a device's identifier and its key in hexadecimal digits."""
    return _is_hexadecimal(device, 32) and _is_hexadecimal(key, 64)


def _is_hexadecimal(value: Any, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None
