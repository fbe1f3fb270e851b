"""Devices: enrolment, revocation, and who asks."""

import secrets
from typing import NamedTuple

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.engine import Connection, Row

from tff_programs.gateway.refusal import RefusalError
from tff_programs.gateway.signing import device_key
from tff_programs.gateway.tables import devices

# A device that was not seen for as long does not count for the pace.
_ACTIVE_SECONDS = 2 * 24 * 3600.0
# A device that comes back sooner is not written down again.
_SEEN_SECONDS = 60.0
# Built once, since building a statement costs more than what the database does for it.
_STANDING = select(devices.c.revoked, devices.c.seen, devices.c.runtime).where(
    devices.c.id == bindparam("device")
)
_SAW = (
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
    """A device that enrolled.

    Attributes:
      device: Its identity.
      key: Its key.
    """

    device: str
    key: bytes


def enrol(connection: Connection, secret: bytes, now: float, most_devices: int) -> NewDevice:
    """Enrols a device.

    Args:
      connection: A transaction that writes.
      secret: The server's secret.
      now: Seconds since 1970.
      most_devices: Number of devices at which no other may enrol.

    Raises:
      RefusalError: If there are as many.
    """
    if connection.scalar(select(func.count()).select_from(devices)) >= most_devices:
        raise RefusalError(
            429,
            "limit",
            f"Expected fewer than {most_devices:,} devices, received one more. Raise "
            "--most_devices.",
            3600,
        )
    device = secrets.token_hex(16)
    connection.execute(devices.insert().values(id=device, enrolled=now, seen=now))
    return NewDevice(device, device_key(secret, device))


def check_enrolled(connection: Connection, device: str) -> Row:
    """Returns what is written down of a device: `revoked`, `seen` and `runtime`.

    Raises:
      RefusalError: Unless the device is enrolled and not revoked.
    """
    row = connection.execute(_STANDING, {"device": device}).first()
    check_standing(row, device)
    return row


def check_standing(row: Row | None, device: str) -> None:
    """Raises a RefusalError unless a device is enrolled and not revoked.

    Args:
      row: What is written down of it, with `revoked`; None if there is nothing.
      device: Its identity.
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


def saw(connection: Connection, device: str, now: float, tier: str, fields: dict) -> None:
    """Writes down that a device checked in, unless it did so a moment ago.

    Args:
      connection: A transaction that writes.
      device: Its identity.
      now: Seconds since 1970.
      tier: The tier that it is in.
      fields: The check-in.
    """
    values = {"device": device, "now": now, "of_tier": tier}
    told = {f"of_{name}": fields[name] for name in ("runtime", "application")}
    connection.execute(_SAW, {**values, **told})


def was_seen_lately(standing: Row, now: float) -> bool:
    """Returns whether the last check-in of `check_enrolled`'s device was written down just now."""
    return standing.runtime != "" and now - standing.seen < _SEEN_SECONDS


def count_active(connection: Connection, now: float) -> int:
    """Counts the devices that were here lately and may take part."""
    return connection.scalar(
        select(func.count())
        .select_from(devices)
        .where(devices.c.seen > now - _ACTIVE_SECONDS, devices.c.revoked.is_(None))
    )


def revoke(connection: Connection, device: str, now: float) -> bool:
    """Revokes a device; returns whether there is such a device."""
    found = connection.execute(
        update(devices)
        .where(devices.c.id == device)
        .values(revoked=func.coalesce(devices.c.revoked, now))
    )
    return found.rowcount > 0
