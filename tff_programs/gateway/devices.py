"""Devices: enrolment, revocation and access checks."""

import secrets
from typing import NamedTuple

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.engine import Connection, Row

from tff_programs.gateway.refusal import RefusalError
from tff_programs.gateway.signing import device_key
from tff_programs.gateway.tables import devices

# Devices that were not seen for this long do not count for pace steering.
_ACTIVE_SECONDS = 2 * 24 * 3600.0
# A device that comes back sooner is not recorded again.
_SEEN_SECONDS = 60.0
# Built once, since constructing a statement costs more than executing it.
_STANDING = select(devices.c.revoked, devices.c.seen, devices.c.runtime).where(
    devices.c.id == bindparam("device")
)
_RECORD_VISIT = (
    update(devices)
    .where(devices.c.id == bindparam("device"))
    .values(
        seen=bindparam("now"),
        tier=bindparam("of_tier"),
        runtime=bindparam("of_runtime"),
        application=bindparam("of_application"),
    )
)


class NewDevice(NamedTuple):
    """A newly enrolled device.

    Attributes:
      device: Identifier of the device, 32 hexadecimal digits.
      key: Signing key of the device, 32 bytes.
    """

    device: str
    key: bytes


def enrol(connection: Connection, secret: bytes, now: float, max_devices: int) -> NewDevice:
    """Enrols a device.

    Args:
      connection: Connection with an open write transaction.
      secret: The server's secret, from which the device's key is derived.
      now: Current Unix time, in seconds.
      max_devices: Maximum number of enrolled devices.

    Raises:
      RefusalError: If that many devices are enrolled already.
    """
    if connection.scalar(select(func.count()).select_from(devices)) >= max_devices:
        raise RefusalError(
            429,
            "limit",
            f"Expected fewer than {max_devices:,} devices, received one more. Raise --max_devices.",
            3600,
        )
    device = secrets.token_hex(16)
    connection.execute(devices.insert().values(id=device, enrolled=now, seen=now))
    return NewDevice(device, device_key(secret, device))


def check_enrolled(connection: Connection, device: str) -> Row:
    """Returns the record of a device: `revoked`, `seen` and `runtime`.

    Raises:
      RefusalError: If the device is not enrolled or was revoked.
    """
    row = connection.execute(_STANDING, {"device": device}).first()
    check_standing(row, device)
    return row


def check_standing(row: Row | None, device: str) -> None:
    """Raises a RefusalError unless a device is enrolled and not revoked.

    Args:
      row: Record of the device, with `revoked`; None if there is none.
      device: Identifier of the device.
    """
    if row is None:
        raise RefusalError(
            401,
            "signature",
            f"Expected the signature of an enrolled device, received that of {device}, which this "
            "server does not know. Enrol again.",
        )
    if row.revoked is not None:
        raise RefusalError(
            403, "revoked", f"Expected a device that may take part; {device} was revoked."
        )


def record_visit(connection: Connection, device: str, now: float, tier: str, fields: dict) -> None:
    """Records a device's check-in.

    Args:
      connection: Connection with an open write transaction.
      device: Identifier of the device.
      now: Current Unix time, in seconds.
      tier: Name of the device's tier; empty if it has none.
      fields: Fields of the check-in request, with `runtime` and `application`.
    """
    values = {"device": device, "now": now, "of_tier": tier}
    told = {f"of_{name}": fields[name] for name in ("runtime", "application")}
    connection.execute(_RECORD_VISIT, {**values, **told})


def was_seen_recently(standing: Row, now: float) -> bool:
    """Returns whether a record of `check_enrolled` has a recent check-in."""
    return standing.runtime != "" and now - standing.seen < _SEEN_SECONDS


def count_active(connection: Connection, now: float) -> int:
    """Counts the devices that were seen recently and are not revoked."""
    return connection.scalar(
        select(func.count())
        .select_from(devices)
        .where(devices.c.seen > now - _ACTIVE_SECONDS, devices.c.revoked.is_(None))
    )


def revoke(connection: Connection, device: str, now: float) -> bool:
    """Revokes a device; returns whether it exists."""
    found = connection.execute(
        update(devices)
        .where(devices.c.id == device)
        .values(revoked=func.coalesce(devices.c.revoked, now))
    )
    return found.rowcount > 0
