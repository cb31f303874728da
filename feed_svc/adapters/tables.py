"""The tables of feed.db."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, MetaData, SmallInteger, Table

FEED_TABLES = MetaData()

FEED_POSITIONS = Table(
    "feed_positions",
    FEED_TABLES,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("mode", SmallInteger, nullable=False),
    Column("anchor_id", BigInteger, nullable=False),
    Column("saved_ms", BigInteger, nullable=False),
)
