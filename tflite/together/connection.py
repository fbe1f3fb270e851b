"""A connection to the gateway: TLS to the intended server, one request at a time."""

import hashlib
import hmac
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tflite.together.address import ServerAddress
from tflite.together.errors import FederationError, RefusedError, UnavailableError

# Far larger than any answer of the protocol except a model.
_MAX_ANSWER_BYTES = 2**20
_CHUNK_BYTES = 256 * 1024
_MAX_WAIT_SECONDS = 24 * 3600


class Answer(NamedTuple):
    """An answer from 200 to 299.

    Attributes:
      status: HTTP status code.
      headers: Headers of the answer.
      parts: Parts of the body, as they arrive.
    """

    status: int
    headers: Mapping[str, str]
    parts: Iterator[bytes]

    def json(self) -> dict[str, Any]:
        """Returns the body as a JSON object.

        Raises:
          FederationError: If the body is not a JSON object.
        """
        fields = _json(_joined(self.parts))
        if fields is None:
            raise FederationError(
                "Expected an answer in JSON as the gateway's protocol has it, received something "
                "else. Check that the address is that of a `fedsup serve`."
            )
        return fields


class Connection:
    """Sends requests to one server, over a connection that is kept open."""

    def __init__(self, address: ServerAddress, timeout_seconds: float = 60.0):
        """Prepares the connection; the first request opens it.

        Args:
          address: The server.
          timeout_seconds: Seconds without data after which a request fails.

        Raises:
          FederationError: If the authority's file is not a certificate.
        """
        self._address = address
        self._timeout = timeout_seconds
        self._tls = address.tls()
        self._connection: http.client.HTTPConnection | None = None

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Sends a request.

        Args:
          method: HTTP method, in capitals.
          path: Path from `/` on, without the prefix that a proxy may need.
          headers: Headers of the request.
          body: Body of the request.

        Returns:
          The answer, whose body must be read before the next request.

        Raises:
          UnavailableError: If there is no answer, or its status is 429 or from 500 on.
          RefusedError: If the answer has any other status from 300 on.
          FederationError: If the server is not the intended one.
        """
        # A PUT request without a body has a length too.
        length = {"Content-Length": str(len(body))} if body or method == "PUT" else {}
        request = (method, self._address.prefix + path, body or None, {**headers, **length})
        try:
            answer = self._answer(request)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise self._foreign(error.verify_message) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnavailableError(
                f"{self._address.url}: expected an answer, received none ({_text(error)}). Check "
                "the address and whether the server runs."
            ) from error
        if answer.status < 300:
            return Answer(answer.status, answer.headers, self._parts(answer))
        fields = _json(_joined(self._parts(answer))) or {}
        message = str(fields.get("message", f"The server answered {answer.status}."))
        if answer.status == 429 or answer.status >= 500:
            raise UnavailableError(message, _seconds(answer.headers.get("Retry-After")))
        code = str(fields.get("code", ""))
        raise RefusedError(answer.status, code, message, answer.headers.get("Date"))

    def close(self) -> None:
        """Closes the connection; the next request opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _answer(self, request: tuple) -> http.client.HTTPResponse:
        is_kept = self._connection is not None
        try:
            connection = self._open()
            connection.request(*request)
            return connection.getresponse()
        except (ConnectionError, http.client.BadStatusLine, http.client.CannotSendRequest):
            if not is_kept:
                raise
        # The server closes idle connections: try again on a new one.
        self.close()
        connection = self._open()
        connection.request(*request)
        return connection.getresponse()

    def _open(self) -> http.client.HTTPConnection:
        if self._connection is not None:
            return self._connection
        host = self._address.host
        if self._tls is None:
            connection = http.client.HTTPConnection(host, timeout=self._timeout)
        else:
            connection = http.client.HTTPSConnection(host, timeout=self._timeout, context=self._tls)
        self._connection = connection
        connection.connect()
        if self._tls is not None and self._address.certificate is not None:
            found = hashlib.sha256(connection.sock.getpeercert(binary_form=True)).hexdigest()
            if not hmac.compare_digest(found, self._address.certificate):
                self.close()
                raise self._foreign(f"the certificate {found[:12]}...")
        return connection

    def _foreign(self, received: str) -> FederationError:
        if self._address.certificate is not None:
            expected = f"the certificate {self._address.certificate[:12]}... of the server's code"
        elif self._address.authority is not None:
            expected = f"a certificate that {str(self._address.authority)!r} signed"
        else:
            expected = "a certificate that a public authority signed"
        return FederationError(
            f"{self._address.url}: expected {expected}, received another one ({received}). Nothing "
            "was sent. Check the address; if the server has a new certificate, scan its new code."
        )

    def _parts(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while part := answer.read(_CHUNK_BYTES):
                yield part
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnavailableError(
                f"{self._address.url}: expected a whole answer, received a part ({_text(error)})."
            ) from error


def _joined(parts: Iterator[bytes]) -> bytes:
    whole = bytearray()
    for part in parts:
        whole += part
        if len(whole) > _MAX_ANSWER_BYTES:
            raise FederationError(
                f"Expected an answer of at most {_MAX_ANSWER_BYTES:,} bytes, received more. Check "
                "that the address is that of a `fedsup serve`."
            )
    return bytes(whole)


def _json(text: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _seconds(text: str | None) -> int | None:
    if text is None or not text.isdecimal() or not text.isascii() or len(text) > 9:
        return None
    return min(int(text), _MAX_WAIT_SECONDS)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
