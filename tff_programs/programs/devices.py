"""fedsup devices --out=FOLDER: lists a gateway's devices, revokes some, changes the token.

--revoke=ID,... permanently excludes devices; --new_token replaces the token with which devices
enrol and prints the new link. Devices that are already enrolled are not affected.
"""

import time
from collections.abc import Sequence

from sqlalchemy import func, select

from tff_programs.gateway import devices, tables
from tff_programs.gateway.enrolment_code import kept_link
from tff_programs.gateway.secret_files import replace_token
from tff_programs.programs.flags.gateway_flags import define_gateway_flags, gateway_database
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_flags_only
from tff_programs.reports.report import format_table

_ROWS = 50


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_gateway_flags(define)
    define.list("revoke", [], "IDs of devices to exclude permanently.")
    define.bool("new_token", False, "Replace the enrolment token.")


def main(argv: Sequence[str]) -> None:
    """Revokes devices, lists them and replaces the token, as the flags say."""
    options = parse_flags_only(define_flags, argv)
    database = gateway_database(options)
    try:
        with database.write() as connection:
            for device in options.revoke:
                if not devices.revoke(connection, device, time.time()):
                    raise ValueError(
                        f"--revoke: expected the identity of a device, received {device!r}. "
                        "`fedsup devices` lists them."
                    )
        with database.read() as connection:
            _list(connection)
            if options.new_token:
                token = replace_token(options.out)
                # A server of an earlier version did not store the link.
                print(kept_link(connection, token) or f"token {token}")
    finally:
        database.close()


def _list(connection) -> None:
    table = tables.devices
    rows = [("device", "tier", "application", "runtime", "seen", "updates", "")]
    counted = (
        select(tables.updates.c.device, func.count().label("count"))
        .group_by(tables.updates.c.device)
        .subquery()
    )
    query = (
        select(table, counted.c.count)
        .outerjoin(counted, counted.c.device == table.c.id)
        .order_by(table.c.seen.desc())
    )
    for row in connection.execute(query.limit(_ROWS)).all():
        seen = time.strftime("%Y-%m-%d %H:%M", time.gmtime(row.seen))
        state = "" if row.revoked is None else "revoked"
        told = (row.tier, row.application, row.runtime, seen, str(row.count or 0), state)
        rows.append((row.id, *told))
    print(format_table(rows))
    total = connection.scalar(select(func.count()).select_from(table))
    if total > _ROWS:
        print(f"and {total - _ROWS} more")
