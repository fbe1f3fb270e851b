"""Tables of the gateway's database."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()

# Facts about the whole federation, such as the version of these tables.
facts = Table(
    "facts",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("value", Text, nullable=False),
)

# Process that may close rounds, until the Unix time `expires`, in seconds.
leases = Table(
    "leases",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("expires", Float, nullable=False),
)

devices = Table(
    "devices",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("enrolled", Float, nullable=False),
    Column("revoked", Float),
    Column("seen", Float, nullable=False, index=True),
    Column("tier", String(100), nullable=False, default=""),
    Column("runtime", String(100), nullable=False, default=""),
    Column("application", String(100), nullable=False, default=""),
)

# States of the current round.
CURRENT_STATES = ("open", "resting", "closing")

# A round trains the supernet `base_hash`, which was trained for `number` rounds and is kept in
# `folder`.
rounds = Table(
    "rounds",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("number", Integer, nullable=False),
    Column("base_hash", String(64), nullable=False, index=True),
    Column("folder", Text, nullable=False),
    # open: devices take part; resting: no device may, since the round must not be merged; closing:
    # its updates are chosen; closed: they are merged; undone: a rollback undid the round.
    Column("state", String(10), nullable=False, index=True),
    Column("opened", Float, nullable=False),
    Column("deadline", Float, nullable=False),
    Column("closed", Float),
    # JSON: the supernet's accuracy by tier; an empty object if it was not evaluated.
    Column("accuracies", Text, nullable=False, default="{}"),
)

round_tiers = Table(
    "round_tiers",
    METADATA,
    Column("round_id", Integer, primary_key=True),
    Column("tier", String(100), primary_key=True),
    Column("place", Integer, nullable=False),
    Column("cost", String(20), nullable=False),
    Column("capacity", Float, nullable=False),
    Column("goal", Integer, nullable=False),
    Column("asked", Integer, nullable=False),
    Column("model", String(64), nullable=False),
    Column("architecture", Text, nullable=False),
    Column("parameters", BigInteger, nullable=False),
)

models = Table(
    "models",
    METADATA,
    Column("hash", String(64), primary_key=True),
    Column("path", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

tasks = Table(
    "tasks",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("device", String(32), nullable=False),
    Column("round_id", Integer, nullable=False),
    Column("tier", String(100), nullable=False),
    Column("given", Float, nullable=False),
    Column("sent", Float),
    UniqueConstraint("device", "round_id"),
    Index("tasks_of_tier", "round_id", "tier"),
)

# One row for each task whose update was accepted with a 2xx answer.
updates = Table(
    "updates",
    METADATA,
    Column("task", String(32), primary_key=True),
    Column("hash", String(64), nullable=False),
    Column("device", String(32), nullable=False, index=True),
    Column("round_id", Integer, nullable=False),
    Column("received", Float, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    # `DeviceUpdate.identity`, once the update is used.
    Column("identity", String(64), nullable=False, default=""),
    # One of waiting, used and left_out.
    Column("state", String(10), nullable=False, index=True),
    # Round that merges the update, set when that round starts to close.
    Column("merged_in", Integer, index=True),
    Column("scale", Float),
    Column("reason", Text, nullable=False, default=""),
)

# Number of refused updates by the protocol's code.
refusals = Table(
    "refusals",
    METADATA,
    Column("round_id", Integer, primary_key=True),
    Column("code", String(20), primary_key=True),
    Column("count", Integer, nullable=False),
)
