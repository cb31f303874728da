"""The tables of graph.db."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table

from foundation.events.sql_outbox import event_columns, open_slots_table
from foundation.leases.sql_leases import worker_leases_table

GRAPH_TABLES = MetaData()

USERS = Table(
    "users",
    GRAPH_TABLES,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("username", String(30), nullable=False, unique=True),
    Column("avatar_url", String(512), nullable=False),
    Column("is_verified", Boolean, nullable=False),
    Column("is_private", Boolean, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("graph_version", BigInteger, nullable=False),
    Column("following_count", Integer, nullable=False),
    Column("tier", SmallInteger, nullable=False),
    Column("tier_since_ms", BigInteger, nullable=False),
)
USER_REQUESTS = Table(
    "user_requests",
    GRAPH_TABLES,
    Column("request_id", String(64), primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False, index=True),
)
FOLLOWING = Table(
    "following",
    GRAPH_TABLES,
    Column("follower_id", BigInteger, primary_key=True, autoincrement=False),
    Column("followee_id", BigInteger, primary_key=True, autoincrement=False),
    Column("state", SmallInteger, nullable=False),
    Column("changed_id", BigInteger, nullable=False),
    Column("bucket", Integer, nullable=False),
    # What the follower's viewer record tells of the followee's tier: 0, PULL or SUPER.
    Column("pulled", SmallInteger, nullable=False),
    *event_columns(),
    Index("following_newest", "follower_id", "changed_id"),
    Index("following_slots", "slot", "worker"),
)
FOLLOWERS = Table(
    "followers",
    GRAPH_TABLES,
    Column("followee_id", BigInteger, primary_key=True, autoincrement=False),
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("follower_id", BigInteger, primary_key=True, autoincrement=False),
    Column("followed_id", BigInteger, nullable=False),
    Index("followers_newest", "followee_id", "followed_id"),
)
FOLLOWER_BUCKETS = Table(
    "follower_buckets",
    GRAPH_TABLES,
    Column("followee_id", BigInteger, primary_key=True, autoincrement=False),
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("n", Integer, nullable=False),
)
BLOCKS = Table(
    "blocks",
    GRAPH_TABLES,
    Column("blocker_id", BigInteger, primary_key=True, autoincrement=False),
    Column("blocked_id", BigInteger, primary_key=True, autoincrement=False),
    Index("blocks_reverse", "blocked_id"),
)
MUTES = Table(
    "mutes",
    GRAPH_TABLES,
    Column("muter_id", BigInteger, primary_key=True, autoincrement=False),
    Column("muted_id", BigInteger, primary_key=True, autoincrement=False),
)
TIER_CROSSINGS = Table(
    "tier_crossings",
    GRAPH_TABLES,
    Column("author_id", BigInteger, primary_key=True, autoincrement=False),
    Column("direction", SmallInteger, nullable=False),
)
GRAPH_CHANGES = Table(
    "graph_changes",
    GRAPH_TABLES,
    Column("change_id", BigInteger, primary_key=True, autoincrement=False),
    *event_columns(),
    Index("graph_changes_slots", "slot", "worker"),
)
OPEN_SLOTS = open_slots_table(GRAPH_TABLES)
WORKER_LEASES = worker_leases_table(GRAPH_TABLES)
