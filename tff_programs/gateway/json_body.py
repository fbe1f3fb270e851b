"""Fields of requests, checked against the schemas of the protocol's openapi.json."""

import json
from typing import Any

from fedsup_tf.files.json_schema import quoted
from tff_programs.gateway.refusal import RefusalError


def parse_enrolment(body: bytes) -> str:
    """Returns the token of an enrolment request.

    Raises:
      RefusalError: If the body is not a valid enrolment.
    """
    fields = _object(body, "An enrolment")
    return _text(fields, "token", 200, "An enrolment")


def parse_check_in(body: bytes) -> dict[str, Any]:
    """Returns the fields of a check-in request.

    Raises:
      RefusalError: If the body is not a valid check-in.
    """
    what = "A check-in"
    fields = _object(body, what)
    for name in ("runtime", "application"):
        _text(fields, name, 100, what)
    if "tier" in fields:
        _text(fields, "tier", 100, what)
    if "model" in fields:
        model = _text(fields, "model", 64, what)
        if len(model) != 64 or set(model) - set("0123456789abcdef"):
            raise _malformed(what, "model as 64 hexadecimal digits", model)
    if "capability" in fields:
        _check_capability(fields["capability"], what)
    elif "tier" not in fields:
        raise _malformed(what, "a tier or a capability", sorted(fields))
    return fields


def _check_capability(value: Any, what: str) -> None:
    if not isinstance(value, dict) or not value:
        raise _malformed(what, "capability as an object with parameters or macs", value)
    for name in ("parameters", "macs"):
        number = value.get(name, 0)
        # Some JSON libraries write 2 as 2.0.
        is_whole = type(number) is int or (type(number) is float and number.is_integer())
        if not is_whole or not 0 <= number < 2**53:
            raise _malformed(what, f"{name} as a whole number from 0 and below 2^53", number)


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        fields = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RefusalError(
            400, "request", f"{what}: expected JSON in UTF-8, received something else ({error})."
        ) from error
    if not isinstance(fields, dict):
        raise _malformed(what, "a JSON object", fields)
    return fields


def _text(fields: dict[str, Any], name: str, maximum: int, what: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= maximum or "\0" in value:
        raise _malformed(what, f"{name} as text of 1 to {maximum} characters", value)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _malformed(what, f"{name} as text in UTF-8", "half a surrogate pair") from error
    return value


def _malformed(what: str, expected: str, received: Any) -> RefusalError:
    return RefusalError(
        400,
        "request",
        f"{what}: expected {expected}, received {quoted(received)}. Send what openapi.json says.",
    )
