"""Followers rows and counts over SQL, written from the log only.

A change counts only while the durable `following` row still has its id: a newer change of the same pair is on its way
and decides. That makes counts exact under redelivery and under events that arrive out of order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from foundation.sql.database import Database
from graph_svc.adapters.edges_sql import PAIRS_PER_QUERY, following_rows
from graph_svc.adapters.tables import FOLLOWER_BUCKETS, FOLLOWERS, FOLLOWING
from graph_svc.model import BUCKET_CAPACITY, AppliedFollow

WRITERS_LOCK = 0x666F_6C6C
"""Advisory lock of PostgreSQL that a writer holds until its transaction ends."""

Place = tuple[int, int, int]
"""(followee, bucket, follower)"""


class SqlFollowers:
    """graph_svc.ports.Followers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def apply(self, changes: Sequence[AppliedFollow]) -> Sequence[AppliedFollow]:
        if not changes:
            return []
        return await self._database.write(lambda connection: _apply(connection, changes), timeout_s=30)


def _apply(connection: Connection, changes: Sequence[AppliedFollow]) -> list[AppliedFollow]:
    if connection.dialect.name == "postgresql":
        # One writer at a time, as SQLite has it: while partitions move, two processes may apply the same changes.
        connection.execute(select(func.pg_advisory_xact_lock(WRITERS_LOCK)))
    rows = following_rows(connection, [(change.follower_id, change.followee_id) for change in changes])
    current: dict[int, AppliedFollow] = {}
    places: dict[int, Place] = {}
    for change in changes:
        row = rows.get((change.follower_id, change.followee_id))
        if row is not None and row.changed_id == change.change_id:
            current[change.change_id] = change
            places[change.change_id] = (change.followee_id, row.bucket, change.follower_id)
    there = _there(connection, list(places.values()))
    added = [change for change in current.values() if change.following and places[change.change_id] not in there]
    removed = [
        places[change.change_id]
        for change in current.values()
        if not change.following and places[change.change_id] in there
    ]
    deltas: Counter[tuple[int, int]] = Counter()
    _remove(connection, removed, deltas)
    _add(connection, added, places, deltas)
    _count(connection, deltas)
    return list(current.values())


def _there(connection: Connection, places: Sequence[Place]) -> set[Place]:
    columns = (FOLLOWERS.c.followee_id, FOLLOWERS.c.bucket, FOLLOWERS.c.follower_id)
    found: set[Place] = set()
    for start in range(0, len(places), PAIRS_PER_QUERY):
        query = select(*columns).where(tuple_(*columns).in_(places[start : start + PAIRS_PER_QUERY]))
        found.update((row.followee_id, row.bucket, row.follower_id) for row in connection.execute(query))
    return found


def _remove(connection: Connection, places: Sequence[Place], deltas: Counter[tuple[int, int]]) -> None:
    for followee_id, bucket, follower_id in places:
        connection.execute(
            delete(FOLLOWERS).where(
                FOLLOWERS.c.followee_id == followee_id,
                FOLLOWERS.c.bucket == bucket,
                FOLLOWERS.c.follower_id == follower_id,
            )
        )
        deltas[followee_id, bucket] -= 1


def _add(
    connection: Connection,
    changes: Sequence[AppliedFollow],
    places: dict[int, Place],
    deltas: Counter[tuple[int, int]],
) -> None:
    if not changes:
        return
    last = _last_buckets(connection, sorted({change.followee_id for change in changes}))
    rows: list[dict[str, int]] = []
    for change in changes:
        bucket, count = last.get(change.followee_id, (0, 0))
        if count >= BUCKET_CAPACITY:
            bucket, count = bucket + 1, 0
        last[change.followee_id] = (bucket, count + 1)
        deltas[change.followee_id, bucket] += 1
        rows.append(
            {
                "followee_id": change.followee_id,
                "bucket": bucket,
                "follower_id": change.follower_id,
                "followed_id": change.change_id,
            }
        )
        if bucket != places[change.change_id][1]:
            connection.execute(
                update(FOLLOWING)
                .where(FOLLOWING.c.follower_id == change.follower_id, FOLLOWING.c.followee_id == change.followee_id)
                .values(bucket=bucket)
            )
    connection.execute(insert(FOLLOWERS), rows)


def _last_buckets(connection: Connection, followee_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    last: dict[int, tuple[int, int]] = {}
    for start in range(0, len(followee_ids), PAIRS_PER_QUERY):
        query = (
            select(FOLLOWER_BUCKETS)
            .where(FOLLOWER_BUCKETS.c.followee_id.in_(followee_ids[start : start + PAIRS_PER_QUERY]))
            .order_by(FOLLOWER_BUCKETS.c.bucket)
        )
        for row in connection.execute(query):
            last[row.followee_id] = (row.bucket, row.n)
    return last


def _count(connection: Connection, deltas: Counter[tuple[int, int]]) -> None:
    if not deltas:
        return
    make = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    upsert = make(FOLLOWER_BUCKETS)
    counted = upsert.on_conflict_do_update(
        index_elements=["followee_id", "bucket"], set_={"n": FOLLOWER_BUCKETS.c.n + upsert.excluded.n}
    )
    rows = [{"followee_id": followee_id, "bucket": bucket, "n": n} for (followee_id, bucket), n in deltas.items()]
    connection.execute(counted, rows)
