"""Followers rows and counts over Cassandra or ScyllaDB, written from the log only.

A follow counts while the durable `following` row still has its id, its end while that row has none: anything else was
overtaken by a change whose event is on its way. What a change does to a bucket - rows, n, stamp - is one batch in one
partition, written once: a change that is told again finds its row as it left it. The batch is written at the time
`stamp`, which only grows, so a batch that arrives late undoes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from foundation.cql.session import Call, Cql, Statement
from foundation.cql.write_time import write_time
from graph_svc.adapters.changes_cql import parts_of
from graph_svc.adapters.edges_cql import IDS_PER_QUERY, FollowRow, follow_rows
from graph_svc.model import BUCKET_CAPACITY, AppliedFollow

Place = tuple[int, int]
"""(followee, bucket)"""

_STANDING = Statement("SELECT n, stamp FROM followers WHERE followee_id = ? AND bucket = ? LIMIT 1")
_ROWS = Statement(
    "SELECT follower_id, followed_id FROM followers WHERE followee_id = ? AND bucket = ? AND follower_id IN ?"
)
_LAST_BUCKET = Statement("SELECT bucket FROM follower_buckets WHERE followee_id = ? LIMIT 1")
_OPEN = Statement(
    "INSERT INTO follower_buckets (followee_id, bucket, n, opened_id) VALUES (?, ?, 0, ?) USING TIMESTAMP 1"
)
_COPY_N = Statement("UPDATE follower_buckets USING TIMESTAMP ? SET n = ? WHERE followee_id = ? AND bucket = ?")
_SET_BUCKET = Statement("UPDATE following USING TIMESTAMP ? SET bucket = ? WHERE follower_id = ? AND followee_id = ?")
_CLEAR_BUCKET = Statement("DELETE bucket FROM following USING TIMESTAMP ? WHERE follower_id = ? AND followee_id = ?")
_ADD = Statement(
    "INSERT INTO followers (followee_id, bucket, follower_id, followed_id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    timeout_s=5.0,
)
_REMOVE = Statement(
    "DELETE FROM followers USING TIMESTAMP ? WHERE followee_id = ? AND bucket = ? AND follower_id = ?", timeout_s=5.0
)
_COUNT = Statement(
    "UPDATE followers USING TIMESTAMP ? SET n = ?, stamp = ? WHERE followee_id = ? AND bucket = ?", timeout_s=5.0
)
_LIST = Statement(
    "INSERT INTO followers_newest (followee_id, bucket, followed_id, follower_id) VALUES (?, ?, ?, ?)"
    " USING TIMESTAMP ?",
    timeout_s=5.0,
)
_UNLIST = Statement(
    "DELETE FROM followers_newest USING TIMESTAMP ? WHERE followee_id = ? AND bucket = ? AND followed_id = ?",
    timeout_s=5.0,
)


@dataclass(slots=True)
class _Bucket:
    """A bucket as it was read, and what is to be done to it."""

    n: int = 0
    stamp: int = 0
    there: dict[int, int] = field(default_factory=dict)
    """Follower to the id of the follow, of those asked for."""
    calls: list[Call] = field(default_factory=list)

    def at(self, change_id: int) -> int:
        """The write time of the next change."""
        self.stamp = max(self.stamp + 1, write_time(change_id))
        return self.stamp


class CqlFollowers:
    """graph_svc.ports.Followers. An end is current after a later end of the same follow too: both say the same."""

    def __init__(self, cql: Cql, *, capacity: int = BUCKET_CAPACITY) -> None:
        self._cql = cql
        self._capacity = capacity

    async def apply(self, changes: Sequence[AppliedFollow]) -> Sequence[AppliedFollow]:
        follows = await follow_rows(self._cql, list({(change.follower_id, change.followee_id) for change in changes}))
        current: dict[int, AppliedFollow] = {}
        for change in changes:
            row = follows.get((change.follower_id, change.followee_id))
            if (row.changed_id if row else 0) == (change.change_id if change.following else 0):
                current[change.change_id] = change
        if current:
            await self._write(list(current.values()), follows)
        return list(current.values())

    async def _write(self, changes: Sequence[AppliedFollow], follows: Mapping[tuple[int, int], FollowRow]) -> None:
        made = [change for change in changes if change.following]
        # An end that is told twice in one batch is one end.
        ended = {(change.follower_id, change.followee_id): change for change in changes if not change.following}
        where = {pair: row.bucket for pair, row in follows.items()}
        last = await self._last_buckets({change.followee_id for change in changes})
        buckets = await self._read(changes, where, last)
        opened: list[Call] = []
        moved: list[Call] = []
        listed: dict[Place, list[Call]] = defaultdict(list)
        unlisted: dict[Place, list[Call]] = defaultdict(list)
        cleared: list[Call] = []
        for (follower_id, followee_id), change in ended.items():
            place = (followee_id, where.get((follower_id, followee_id), 0))
            bucket = buckets[place]
            followed_id = bucket.there.pop(follower_id, None)
            at = bucket.at(change.change_id)
            if followed_id is not None:
                bucket.n -= 1
                unlisted[place].append((_UNLIST, (at, *place, followed_id)))
            # Where there is no row too: one that was on its way when its writer gave up must not come after this.
            bucket.calls.append((_REMOVE, (at, *place, follower_id)))
            if place[1]:
                cleared.append((_CLEAR_BUCKET, (write_time(change.change_id), follower_id, followee_id)))
        for change in made:
            follower_id, followee_id = change.follower_id, change.followee_id
            place = (followee_id, where[follower_id, followee_id])
            if follower_id not in buckets[place].there:
                if not place[1]:
                    place = self._target(followee_id, last[followee_id], buckets)
                    if place[1]:
                        moved.append((_SET_BUCKET, (write_time(change.change_id), place[1], follower_id, followee_id)))
                if place[1] > last[followee_id]:
                    opened.append((_OPEN, (*place, change.change_id)))
                    last[followee_id] = place[1]
                bucket = buckets[place]
                bucket.n += 1
                bucket.there[follower_id] = change.change_id
                bucket.calls.append((_ADD, (*place, follower_id, change.change_id, bucket.at(change.change_id))))
            followed_id = buckets[place].there[follower_id]
            listed[place].append((_LIST, (*place, followed_id, follower_id, write_time(followed_id))))
        # In this order: whoever dies on the way leaves what the same changes, told again, find and complete.
        await self._cql.execute_all([*opened, *moved])
        await self._cql.batch_all([part for calls in unlisted.values() for part in parts_of(calls)])
        await self._cql.batch_all(
            [
                [*bucket.calls, (_COUNT, (bucket.stamp, bucket.n, bucket.stamp, *place))]
                for place, bucket in buckets.items()
                if bucket.calls
            ]
        )
        await self._cql.batch_all([part for calls in listed.values() for part in parts_of(calls)])
        copies: list[Call] = [
            (_COPY_N, (bucket.stamp, bucket.n, *place))
            for place, bucket in buckets.items()
            if bucket.stamp and place[1] <= last[place[0]]
        ]
        await self._cql.execute_all([*copies, *cleared])

    def _target(self, followee_id: int, last: int, buckets: dict[Place, _Bucket]) -> Place:
        """The bucket for a new row: the last, or a new one where that is full."""
        place = (followee_id, max(last, 0))
        if buckets[place].n < self._capacity:
            return place
        place = (followee_id, place[1] + 1)
        buckets.setdefault(place, _Bucket())
        return place

    async def _last_buckets(self, followee_ids: Collection[int]) -> dict[int, int]:
        """The newest bucket of each; -1 where none was ever opened."""
        ordered = list(followee_ids)
        answers = await self._cql.execute_all([(_LAST_BUCKET, (followee_id,)) for followee_id in ordered])
        return {followee_id: rows[0][0] if rows else -1 for followee_id, rows in zip(ordered, answers, strict=True)}

    async def _read(
        self, changes: Sequence[AppliedFollow], where: Mapping[tuple[int, int], int], last: Mapping[int, int]
    ) -> dict[Place, _Bucket]:
        """The last buckets and those where the rows of *changes* may lie, with these rows."""
        asked: dict[Place, list[int]] = defaultdict(list)
        for change in changes:
            pair = (change.follower_id, change.followee_id)
            asked[change.followee_id, where.get(pair, 0)].append(change.follower_id)
        ordered = list({*asked, *((followee_id, max(bucket, 0)) for followee_id, bucket in last.items())})
        rows_of: list[Call] = [
            (_ROWS, (*place, followers[start : start + IDS_PER_QUERY]))
            for place, followers in asked.items()
            for start in range(0, len(followers), IDS_PER_QUERY)
        ]
        answers = await self._cql.execute_all([*((_STANDING, place) for place in ordered), *rows_of])
        buckets = {place: _bucket(rows) for place, rows in zip(ordered, answers, strict=False)}
        for (_, parameters), rows in zip(rows_of, answers[len(ordered) :], strict=True):
            buckets[parameters[0], parameters[1]].there.update((row[0], row[1]) for row in rows)
        return buckets


def _bucket(rows: Sequence[Sequence[int | None]]) -> _Bucket:
    n, stamp = rows[0] if rows else (0, 0)
    return _Bucket(n or 0, stamp or 0)
