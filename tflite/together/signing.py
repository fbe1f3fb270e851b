"""Signatures of requests: HMAC-SHA256 under a device's key (docs/gateway_protocol.md)."""

import hashlib
import hmac

SCHEME = "Fedsup"
EMPTY_HASH = hashlib.sha256(b"").hexdigest()


def signature(key: bytes, method: str, path: str, body_hash: str, time: int) -> str:
    """Returns the signature of a request, as hexadecimal digits.

    Args:
      key: Key of the device.
      method: HTTP method, in capitals.
      path: Path of the request, from `/v1/` on.
      body_hash: SHA-256 of the body, in hexadecimal digits.
      time: Current Unix time, in seconds.
    """
    text = f"{method}\n{path}\n{body_hash}\n{time}"
    return hmac.digest(key, text.encode(), "sha256").hex()


def authorization(
    device: str, key: bytes, method: str, path: str, body_hash: str, time: int
) -> str:
    """Returns the `Authorization` header of a request; see `signature`."""
    return f"{SCHEME} {device}:{time}:{signature(key, method, path, body_hash, time)}"
