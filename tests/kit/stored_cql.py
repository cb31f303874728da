"""A world of follows written into the CQL store of graph_svc, in bulk: batches of one partition each.

Only who acts gets an account and `following` rows; the other followers of a large author are rows of that author.
Everything is written at the time of its follow, so that what services write from now on comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.stored_world import Ids, StoredWorld, bucket_places
from foundation.cql.session import UNSET, Call, Cql, Statement
from foundation.cql.write_time import write_time
from foundation.model.ids import id_at, time_part_of
from foundation.model.tiers import Tier
from foundation.visibility import EdgeState, UserState
from graph_svc.adapters.marks_cql import mark_value
from graph_svc.model import BUCKET_CAPACITY

ROWS_PER_BATCH = 200
"""Of ~50 bytes: a tenth of what the store refuses."""
CELL = 0
"""Of the versions: the worker that is said to have written."""
FOLLOWS_MADE_BEFORE_MS = 10**9

_USER = Statement(
    "INSERT INTO users (user_id, username, avatar_url, is_verified, is_private, state, stamps, tier, tier_since_ms)"
    " VALUES (?, ?, '', false, false, ?, ?, ?, ?) USING TIMESTAMP ?",
    timeout_s=10.0,
)
_FOLLOW = Statement(
    "INSERT INTO following (follower_id, followee_id, state, changed_id, bucket, pulled) VALUES (?, ?, ?, ?, ?, ?)"
    " USING TIMESTAMP ?",
    timeout_s=10.0,
)
_STAMP = Statement("UPDATE following USING TIMESTAMP ? SET stamps[?] = ? WHERE follower_id = ?", timeout_s=10.0)
_FOLLOWER = Statement(
    "INSERT INTO followers (followee_id, bucket, follower_id, followed_id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    timeout_s=10.0,
)
_NEWEST = Statement(
    "INSERT INTO followers_newest (followee_id, bucket, followed_id, follower_id) VALUES (?, ?, ?, ?)"
    " USING TIMESTAMP ?",
    timeout_s=10.0,
)
_COUNT = Statement(
    "UPDATE followers USING TIMESTAMP ? SET n = ?, stamp = ? WHERE followee_id = ? AND bucket = ?", timeout_s=10.0
)
_BUCKET = Statement(
    "INSERT INTO follower_buckets (followee_id, bucket, n, opened_id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    timeout_s=10.0,
)


async def store_graph_cql(cql: Cql, world: StoredWorld, acting: Ids, *, pull_from: int, now_ms: int) -> None:
    """Follows of everyone, with accounts of *acting* (indexes); authors of *pull_from* followers are pulled."""
    since_ms = now_ms - FOLLOWS_MADE_BEFORE_MS
    changes = id_at(since_ms) + np.arange(len(world.followers))
    counts = world.follower_counts()
    tiers = [Tier.PULL if count >= pull_from else Tier.PUSH for count in counts.tolist()]
    buckets = bucket_places(world.followees) // BUCKET_CAPACITY
    ids = world.users.tolist()
    await cql.execute_all(
        [
            (_USER, (ids[place], f"p{place}", UserState.ACTIVE, {CELL: time_part_of(ids[place])}, *tier, 1))
            for place in acting.tolist()
            # An author who never crossed has no tier, as none that is PUSH in this world has.
            for tier in [(tiers[place], since_ms) if tiers[place] is Tier.PULL else (UNSET, UNSET)]
        ]
    )
    acts = np.zeros(len(ids), dtype=bool)
    acts[acting] = True
    await cql.batch_all(_following(world, changes, buckets, tiers, since_ms, np.flatnonzero(acts[world.followers])))
    await _store_followers(cql, world, changes, buckets)


def _following(
    world: StoredWorld, changes: Ids, buckets: Ids, tiers: Sequence[Tier], since_ms: int, rows: Ids
) -> list[list[Call]]:
    """A batch for each follower among *rows*, which are in the order of followers."""
    ids = world.users.tolist()
    batches: dict[int, list[Call]] = {}
    for row in rows.tolist():
        follower, followee = int(world.followers[row]), int(world.followees[row])
        change = int(changes[row])
        mark = mark_value(Tier.PULL, since_ms) if tiers[followee] is Tier.PULL else UNSET
        bucket = int(buckets[row]) or UNSET
        values = (ids[follower], ids[followee], EdgeState.FOLLOWING, change, bucket, mark, write_time(change))
        calls = batches.setdefault(
            follower, [(_STAMP, (write_time(change), CELL, time_part_of(change), ids[follower]))]
        )
        calls.append((_FOLLOW, values))
    return list(batches.values())


async def _store_followers(cql: Cql, world: StoredWorld, changes: Ids, buckets: Ids) -> None:
    """Rows in both orders, then the counts, then what says that there are buckets: nobody reads half of one."""
    order = np.lexsort((world.followers, buckets, world.followees))
    places = np.flatnonzero(
        np.diff(world.followees[order], prepend=-1) | np.diff(buckets[order], prepend=-1)  # where one begins
    ).tolist()
    rows: list[list[Call]] = []
    counts: list[Call] = []
    opened: list[Call] = []
    for start, end in zip(places, [*places[1:], len(order)], strict=True):
        of_bucket = order[start:end]
        place = (int(world.users[world.followees[of_bucket[0]]]), int(buckets[of_bucket[0]]))
        followers, followed = world.users[world.followers[of_bucket]].tolist(), changes[of_bucket].tolist()
        for first in range(0, len(followers), ROWS_PER_BATCH):
            part = list(zip(followers, followed, strict=True))[first : first + ROWS_PER_BATCH]
            rows.append([(_FOLLOWER, (*place, follower, change, write_time(change))) for follower, change in part])
            rows.append([(_NEWEST, (*place, change, follower, write_time(change))) for follower, change in part])
        at = write_time(max(followed))
        counts.append((_COUNT, (at, len(followers), at, *place)))
        opened.append((_BUCKET, (*place, len(followers), min(followed), at)))
    await cql.batch_all(rows)
    await cql.execute_all(counts)
    await cql.execute_all(opened)
