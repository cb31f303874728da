"""The tables of posts.db."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, SmallInteger, String, Table, Text

from foundation.events.sql_outbox import event_columns, open_slots_table
from foundation.leases.sql_leases import worker_leases_table

POST_TABLES = MetaData()

POSTS = Table(
    "posts",
    POST_TABLES,
    Column("post_id", BigInteger, primary_key=True, autoincrement=False),
    Column("author_id", BigInteger, nullable=False),
    Column("caption", Text, nullable=False),
    Column("hashtags", Text, nullable=False),
    Column("location_id", String(64), nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    *event_columns(),
    Index("posts_by_author", "author_id", "post_id"),
    Index("posts_slots", "slot", "worker"),
)
POST_REQUESTS = Table(
    "post_requests",
    POST_TABLES,
    Column("author_id", BigInteger, primary_key=True, autoincrement=False),
    Column("request_id", String(64), primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("post_id", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False, index=True),
)
POST_CHANGES = Table(
    "post_changes",
    POST_TABLES,
    Column("change_id", BigInteger, primary_key=True, autoincrement=False),
    *event_columns(),
    Index("post_changes_slots", "slot", "worker"),
)
OPEN_SLOTS = open_slots_table(POST_TABLES)
WORKER_LEASES = worker_leases_table(POST_TABLES)
