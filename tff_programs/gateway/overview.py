"""State of a gateway for its operator: the round, the tiers, the outcomes of updates."""

import json
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.engine import Connection, Row

from tff_programs.gateway import devices, tables
from tff_programs.gateway.round_records import current_round
from tff_programs.gateway.tables import refusals, round_tiers, rounds, tasks, updates

_MAX_ROUNDS = 200
_MAX_REASONS = 30


def overview(connection: Connection, now: float) -> dict[str, Any]:
    """Returns the state that the page shows, in types that JSON has.

    Args:
      connection: Connection with an open transaction.
      now: Current Unix time, in seconds.
    """
    current = current_round(connection)
    history = _history(connection)
    return {
        "now": now,
        "round": None if current is None else _round(connection, current, now),
        "rounds": history,
        "devices": _devices(connection, now),
        "left_out": _left_out(connection),
        "received_bytes": sum(one["bytes"] for one in history),
    }


def gauges(connection: Connection, now: float) -> dict[str, float]:
    """Returns the gauges for Prometheus, by name with labels.

    Args:
      connection: Connection with an open transaction.
      now: Current Unix time, in seconds.
    """
    current = current_round(connection)
    found = {
        "round": 0 if current is None else current.number,
        "updates_waiting": 0 if current is None else _count_waiting(connection, current),
    }
    counts = _devices(connection, now).items()
    return {**found, **{f'devices{{state="{name}"}}': count for name, count in counts}}


def _count_waiting(connection: Connection, current: Row) -> int:
    return connection.scalar(
        select(func.count())
        .select_from(updates)
        .where(updates.c.state == "waiting")
        .where((updates.c.merged_in.is_(None)) | (updates.c.merged_in == current.id))
    )


def _round(connection, current, now) -> dict[str, Any]:
    working = (
        select(
            tasks.c.tier,
            func.count().label("given"),
            func.count(tasks.c.sent).label("sent"),
        )
        .where(tasks.c.round_id == current.id)
        .group_by(tasks.c.tier)
        .subquery()
    )
    tiers = connection.execute(
        select(round_tiers, working.c.given, working.c.sent)
        .outerjoin(working, working.c.tier == round_tiers.c.tier)
        .where(round_tiers.c.round_id == current.id)
        .order_by(round_tiers.c.place)
    ).all()
    return {
        "number": current.number,
        "state": current.state,
        "seconds": now - current.opened,
        "deadline_seconds": max(0.0, current.deadline - now),
        "waiting": _count_waiting(connection, current),
        "goal": sum(tier.goal for tier in tiers),
        "tiers": [
            {
                "tier": tier.tier,
                "architecture": tier.architecture,
                "parameters": tier.parameters,
                "goal": tier.goal,
                "asked": tier.asked,
                "at_work": (tier.given or 0) - (tier.sent or 0),
                "sent": tier.sent or 0,
            }
            for tier in tiers
        ],
    }


def _history(connection) -> list[dict[str, Any]]:
    """Returns the latest rounds, oldest first, without reading earlier ones."""
    latest = select(rounds).order_by(rounds.c.id.desc()).limit(_MAX_ROUNDS).subquery()
    first = select(func.min(latest.c.id)).scalar_subquery()
    base = rounds.alias("base")
    is_late = (updates.c.state == "used") & (base.c.number < rounds.c.number)
    counts = (
        select(
            updates.c.merged_in.label("id"),
            func.sum(case((updates.c.state == "used", 1), else_=0)).label("used"),
            func.sum(case((is_late, 1), else_=0)).label("late"),
            func.sum(case((updates.c.state == "left_out", 1), else_=0)).label("left_out"),
            func.sum(updates.c.bytes).label("bytes"),
        )
        .join(rounds, rounds.c.id == updates.c.merged_in)
        .join(base, base.c.id == updates.c.round_id)
        .where(updates.c.merged_in >= first)
        .group_by(updates.c.merged_in)
        .subquery()
    )
    rows = connection.execute(
        select(latest, counts.c.used, counts.c.late, counts.c.left_out, counts.c.bytes)
        .outerjoin(counts, counts.c.id == latest.c.id)
        .order_by(latest.c.id)
    ).all()
    refused: dict[int, dict[str, int]] = {}
    for row in connection.execute(select(refusals).where(refusals.c.round_id >= first)):
        refused.setdefault(row.round_id, {})[row.code] = row.count
    return [
        {
            "id": row.id,
            "number": row.number,
            "state": row.state,
            "supernet": row.base_hash,
            "closed": row.closed,
            "used": int(row.used or 0),
            "late": int(row.late or 0),
            "left_out": int(row.left_out or 0),
            "refused": refused.get(row.id, {}),
            "bytes": int(row.bytes or 0),
            "accuracies": json.loads(row.accuracies),
        }
        for row in rows
    ]


def _devices(connection, now) -> dict[str, int]:
    def count(*where):
        query = select(func.count()).select_from(tables.devices)
        return connection.scalar(query.where(*where) if where else query)

    return {
        "enrolled": count(),
        "active": devices.count_active(connection, now),
        "revoked": count(tables.devices.c.revoked.isnot(None)),
    }


def _left_out(connection) -> list[dict[str, Any]]:
    rows = connection.execute(
        select(updates.c.device, updates.c.hash, updates.c.reason, updates.c.received)
        .where(updates.c.state == "left_out")
        .order_by(updates.c.received.desc())
        .limit(_MAX_REASONS)
    ).all()
    return [dict(row._mapping) for row in rows]
