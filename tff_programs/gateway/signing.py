"""Signatures of requests: HMAC-SHA256 under a device's key (docs/gateway_protocol.md).

The server derives each device's key from a single secret, so neither its database nor a copy of it
holds keys.
"""

import hmac
import re
from typing import NamedTuple

from tflite.together.signing import SCHEME, signature

# Maximum difference between the clocks of a device and the server, in seconds.
CLOCK_SECONDS = 300
_CREDENTIALS = re.compile(rf"{SCHEME} ([0-9a-f]{{32}}):([0-9]{{1,12}}):([0-9a-f]{{64}})")


class Credentials(NamedTuple):
    """Content of an `Authorization` header.

    Attributes:
      device: Identifier of the device.
      time: Unix time of the signature, in seconds.
      signature: HMAC-SHA256 as 64 hexadecimal digits.
    """

    device: str
    time: int
    signature: str


def device_key(secret: bytes, device: str) -> bytes:
    """Derives the 32 bytes of a device's key."""
    return hmac.digest(secret, f"device key\n{device}".encode(), "sha256")


def read_authorization(header: str) -> Credentials | None:
    """Returns the fields of an `Authorization` header; None if it is malformed."""
    match = _CREDENTIALS.fullmatch(header)
    return match and Credentials(match[1], int(match[2]), match[3])


def is_signed(
    credentials: Credentials, secret: bytes, method: str, path: str, body_hash: str
) -> bool:
    """Returns whether the device named by the credentials signed the request."""
    key = device_key(secret, credentials.device)
    expected = signature(key, method, path, body_hash, credentials.time)
    return hmac.compare_digest(expected, credentials.signature)
