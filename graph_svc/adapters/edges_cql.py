"""Edges over Cassandra or ScyllaDB.

Two changes of one pair that are made at the same moment by two services are ordered by their ids. A follow looks for
blocks again after it was written, and a block ends the follows that it finds after it was written: whichever comes
second sees the other.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from foundation.cql.session import Call, Cql, Row, Statement
from foundation.cql.write_time import write_time
from foundation.model.ids import MAX_ID, Ids
from foundation.model.tiers import Tier
from foundation.visibility import UserState
from graph_svc.adapters.changes_cql import Change, Changes, Kind
from graph_svc.adapters.follow_decisions import Pair, decide_follows, decide_unfollows
from graph_svc.adapters.marks_cql import mark_value
from graph_svc.adapters.users_cql import following_counts, read_users
from graph_svc.model import (
    FOLLOWERS_PER_PAGE,
    FollowChange,
    FollowOutcome,
    FollowResult,
    ListedUser,
    Published,
    Relationship,
)

IDS_PER_QUERY = 100
AUTHORS_AT_ONCE = 32
"""Authors whose followers are read at the same time; at most about FOLLOWERS_PER_PAGE of each are held."""

_STATE = Statement("SELECT user_id, state, username, tier, tier_since_ms FROM users WHERE user_id = ?")
_FOLLOWS_OF = Statement(
    "SELECT followee_id, changed_id, bucket, pulled FROM following WHERE follower_id = ? AND followee_id IN ?"
)
_FOLLOWING = Statement("SELECT followee_id, changed_id FROM following WHERE follower_id = ?")
_BLOCKS_OF = Statement("SELECT other_id, blocking_id, blocked_by_id FROM blocks WHERE user_id = ? AND other_id IN ?")
_MUTED = Statement("SELECT muted_id FROM mutes WHERE muter_id = ? AND muted_id = ?")
_MUTE = Statement("INSERT INTO mutes (muter_id, muted_id) VALUES (?, ?) USING TIMESTAMP ?")
_UNMUTE = Statement("DELETE FROM mutes USING TIMESTAMP ? WHERE muter_id = ? AND muted_id = ?")
_BUCKETS = Statement("SELECT bucket, n, opened_id FROM follower_buckets WHERE followee_id = ?")
_NEWEST = Statement(
    "SELECT followed_id, follower_id FROM followers_newest"
    " WHERE followee_id = ? AND bucket = ? AND followed_id < ? LIMIT ?"
)
_FOLLOWERS = Statement("SELECT follower_id FROM followers WHERE followee_id = ? AND bucket = ?")
# Over partitions of several authors: the store gathers them where they lie, for a fraction of what a request each costs
# both sides (300 µs an author). Bounded by AUTHORS_AT_ONCE.
_BUCKETS_OF_MANY = Statement("SELECT followee_id, bucket, n FROM follower_buckets WHERE followee_id IN ?")
_FOLLOWERS_OF_MANY = Statement("SELECT followee_id, follower_id FROM followers WHERE followee_id IN ? AND bucket = ?")


class CqlEdges:
    """graph_svc.ports.Edges. Two follows of one user at the same moment may both pass the limit."""

    def __init__(self, cql: Cql, changes: Changes, ids: Ids) -> None:
        self._cql = cql
        self._changes = changes
        self._ids = ids

    async def follow(self, changes: Sequence[FollowChange], *, limit: int) -> FollowResult:
        pairs = [(change.follower_id, change.followee_id) for change in changes]
        active, counts, follows, blocked = await asyncio.gather(
            self._active({user_id for pair in pairs for user_id in pair}),
            following_counts(self._cql, list({follower_id for follower_id, _ in pairs})),
            follow_rows(self._cql, pairs),
            self._blocks(pairs),
        )
        outcomes, made = decide_follows(
            changes,
            active={user_id: counts.get(user_id, 0) for user_id in active},
            blocked=blocked,
            existing={pair for pair, row in follows.items() if row.changed_id},
            limit=limit,
        )
        # The next read pulls a pulled author at once. The consumer marks again after it wrote the followers row: the
        # tier may change before that.
        follow = [
            Change.of(Kind.FOLLOW, each.change_id, each.follower_id, each.followee_id, mark=active[each.followee_id])
            for each in made
        ]
        await self._changes.make(follow)
        retracted = await self._retract(follow)
        outcomes = [retracted.get(change.change_id, outcome) for change, outcome in zip(changes, outcomes, strict=True)]
        return FollowResult(outcomes, _published(each for each in follow if each.change_id not in retracted))

    async def unfollow(self, changes: Sequence[FollowChange]) -> FollowResult:
        pairs = [(change.follower_id, change.followee_id) for change in changes]
        active, follows = await asyncio.gather(
            self._active({followee_id for _, followee_id in pairs}), follow_rows(self._cql, pairs)
        )
        existing = {pair: row.changed_id for pair, row in follows.items() if row.changed_id}
        outcomes, ended = decide_unfollows(changes, active=active, existing=existing)
        ends = [
            Change.of(Kind.UNFOLLOW, change.change_id, *pair, ends_id=existing[pair])
            for change in ended
            if (pair := (change.follower_id, change.followee_id))
        ]
        await self._changes.make(ends)
        return FollowResult(outcomes, _published(ends))

    async def block(self, blocker_id: int, blocked_id: int, *, change_ids: tuple[int, int, int]) -> Sequence[Published]:
        pairs = [(blocker_id, blocked_id), (blocked_id, blocker_id)]
        made: list[Change] = []
        if await self._is_blocking(blocker_id, blocked_id):
            await self._changes.raise_versions(blocker_id, blocked_id)
        else:
            # Noted together, so that the ends of the follows are published whatever happens from here on.
            made = [Change.of(Kind.BLOCK, change_ids[0], blocker_id, blocked_id)]
            made += await self._ends(pairs, change_ids[1:])
            await self._changes.make(made)
        # A follow may have been made in the meantime, or an earlier try may have died.
        late = await self._ends(pairs, change_ids[1:])
        await self._changes.make(late)
        return _published({change.change_id: change for change in [*made, *late]}.values())

    async def unblock(self, blocker_id: int, blocked_id: int, *, change_id: int) -> Sequence[Published]:
        rows = await self._cql.execute(_BLOCKS_OF, (blocker_id, [blocked_id]))
        since = next((row[1] for row in rows if row[1]), 0)
        if not since:
            await self._changes.raise_versions(blocker_id, blocked_id)
            return []
        lifted = [Change.of(Kind.UNBLOCK, change_id, blocker_id, blocked_id, ends_id=since)]
        await self._changes.make(lifted)
        return _published(lifted)

    async def mute(self, muter_id: int, muted_id: int) -> None:
        await self._cql.execute(_MUTE, (muter_id, muted_id, write_time(self._ids.next())))
        await self._changes.raise_versions(muter_id)

    async def unmute(self, muter_id: int, muted_id: int) -> None:
        await self._cql.execute(_UNMUTE, (write_time(self._ids.next()), muter_id, muted_id))
        await self._changes.raise_versions(muter_id)

    async def relationship(self, viewer_id: int, other_id: int) -> Relationship:
        pairs = [(viewer_id, other_id), (other_id, viewer_id)]
        follows, blocked, muted = await asyncio.gather(
            follow_rows(self._cql, pairs),
            self._blocks([(viewer_id, other_id)]),
            self._cql.execute(_MUTED, (viewer_id, other_id)),
        )
        stands = {pair for pair, row in follows.items() if row.changed_id}
        return Relationship(
            following=(viewer_id, other_id) in stands,
            followed_by=(other_id, viewer_id) in stands,
            blocking=(viewer_id, other_id) in blocked,
            blocked_by=(other_id, viewer_id) in blocked,
            muting=bool(muted),
        )

    async def followers(self, user_id: int, *, before: int, limit: int) -> Sequence[ListedUser]:
        below = before or MAX_ID
        buckets = await self._cql.execute(_BUCKETS, (user_id,))
        # From the newest bucket that can hold such a place. Neighbouring buckets overlap by the moment in which the log
        # mixes follows, so one bucket more than needed is read at either end.
        first = next((at for at, (_, _, opened_id) in enumerate(buckets) if opened_id < below), len(buckets))
        entries: list[tuple[int, int]] = []
        for at in range(max(0, first - 1), len(buckets)):
            enough = len(entries) >= limit
            rows = await self._cql.execute(_NEWEST, (user_id, buckets[at][0], below, limit))
            entries += [(place, follower_id) for place, follower_id in rows]
            if enough:
                break
        return await self._listed(sorted(entries, reverse=True)[:limit])

    async def following(self, user_id: int, *, before: int, limit: int) -> Sequence[ListedUser]:
        rows = await self._cql.execute(_FOLLOWING, (user_id,))
        entries = [
            (changed_id, followee_id)
            for followee_id, changed_id in rows
            if changed_id is not None and (not before or changed_id < before)
        ]
        return await self._listed(sorted(entries, reverse=True)[:limit])

    async def follower_pages(self, user_ids: Sequence[int]) -> AsyncIterator[tuple[int, Sequence[int]]]:
        ordered = sorted(set(user_ids))
        for start in range(0, len(ordered), AUTHORS_AT_ONCE):
            authors = ordered[start : start + AUTHORS_AT_ONCE]
            directories = await self._directories(authors)
            # Few followers are read at once for all these authors; many come page by page.
            at_once = await self._few_followers(directories)
            for user_id, buckets in directories.items():
                if user_id in at_once:
                    followers = at_once[user_id]
                    for first in range(0, len(followers), FOLLOWERS_PER_PAGE):
                        yield user_id, followers[first : first + FOLLOWERS_PER_PAGE]
                    continue
                for bucket, _ in buckets:
                    async for page in self._cql.pages(_FOLLOWERS, (user_id, bucket), rows=FOLLOWERS_PER_PAGE):
                        if followers := _ids(page):
                            yield user_id, followers

    async def _directories(self, user_ids: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
        """(bucket, number of followers) of each user, oldest bucket first."""
        directories: dict[int, list[tuple[int, int]]] = {user_id: [] for user_id in user_ids}
        for user_id, bucket, count in await self._cql.execute(_BUCKETS_OF_MANY, (list(user_ids),)):
            directories[user_id].append((bucket, count or 0))
        return {user_id: sorted(buckets) for user_id, buckets in directories.items()}

    async def _few_followers(self, directories: Mapping[int, Sequence[tuple[int, int]]]) -> dict[int, list[int]]:
        """Followers of those users who have at most a page of them, in one bucket."""
        by_bucket: dict[int, list[int]] = defaultdict(list)
        for user_id, buckets in directories.items():
            if len(buckets) == 1 and buckets[0][1] <= FOLLOWERS_PER_PAGE:
                by_bucket[buckets[0][0]].append(user_id)
        found: dict[int, list[int]] = {user_id: [] for users in by_bucket.values() for user_id in users}
        calls: list[Call] = [(_FOLLOWERS_OF_MANY, (users, bucket)) for bucket, users in by_bucket.items()]
        for rows in await self._cql.execute_all(calls):
            for user_id, follower_id in rows:
                # A partition that holds nothing but its static columns answers with one row of nothing.
                if follower_id is not None:
                    found[user_id].append(follower_id)
        return found

    async def _listed(self, entries: Sequence[tuple[int, int]]) -> list[ListedUser]:
        users = await read_users(self._cql, [user_id for _, user_id in entries])
        return [ListedUser(users[user_id], place) for place, user_id in entries if user_id in users]

    async def _retract(self, follows: Sequence[Change]) -> dict[int, FollowOutcome]:
        """Take back those of *follows* that a block has crossed; their outcomes by change id."""
        blocked = await self._blocks([(follow.one_id, follow.other_id) for follow in follows])
        crossed = {
            follow.change_id: FollowOutcome.BLOCKED_BY_THEM
            if (follow.other_id, follow.one_id) in blocked
            else FollowOutcome.BLOCKING_THEM
            for follow in follows
            if {(follow.one_id, follow.other_id), (follow.other_id, follow.one_id)} & blocked
        }
        # At the time of the follow itself: what the sweeper completes doesn't bring it back.
        await self._changes.apply(
            [replace(follow, kind=Kind.UNFOLLOW) for follow in follows if follow.change_id in crossed]
        )
        return crossed

    async def _ends(self, pairs: Sequence[Pair], change_ids: Sequence[int]) -> list[Change]:
        """The ends of those of the follows that stand."""
        follows = await follow_rows(self._cql, pairs)
        return [
            Change.of(Kind.UNFOLLOW, change_id, *pair, ends_id=changed_id)
            for pair, change_id in zip(pairs, change_ids, strict=True)
            if pair in follows and (changed_id := follows[pair].changed_id)
        ]

    async def _is_blocking(self, blocker_id: int, blocked_id: int) -> bool:
        """Whether the block is there in both directions."""
        mine, theirs = await self._cql.execute_all(
            [(_BLOCKS_OF, (blocker_id, [blocked_id])), (_BLOCKS_OF, (blocked_id, [blocker_id]))]
        )
        return any(row[1] for row in mine) and any(row[2] for row in theirs)

    async def _blocks(self, pairs: Sequence[Pair]) -> set[Pair]:
        """(blocker, blocked) of the blocks between the two of each pair."""
        found: set[Pair] = set()
        for user_id, rows in await _by_first(self._cql, _BLOCKS_OF, pairs):
            for other_id, blocking_id, blocked_by_id in rows:
                if blocking_id:
                    found.add((user_id, other_id))
                if blocked_by_id:
                    found.add((other_id, user_id))
        return found

    async def _active(self, user_ids: Collection[int]) -> dict[int, int]:
        """What a follow of each of the active users is marked with."""
        answers = await self._cql.execute_all([(_STATE, (user_id,)) for user_id in user_ids])
        return {
            user_id: mark_value(Tier(tier or Tier.PUSH), since_ms or 0)
            for rows in answers
            for user_id, state, username, tier, since_ms in rows
            if state == UserState.ACTIVE and username is not None
        }


@dataclass(slots=True, frozen=True)
class FollowRow:
    """A follow, or what is left of one until its followers row is gone."""

    changed_id: int
    """The change that made it; 0 when it has ended."""
    bucket: int
    """Where its followers row lies, if there is one."""
    pulled: int
    """Its mark (marks_cql.py)."""


async def follow_rows(cql: Cql, pairs: Sequence[Pair]) -> dict[Pair, FollowRow]:
    """The durable follows of (follower, followee) pairs."""
    return {
        (follower_id, followee_id): FollowRow(changed_id or 0, bucket or 0, pulled or 0)
        for follower_id, rows in await _by_first(cql, _FOLLOWS_OF, pairs)
        for followee_id, changed_id, bucket, pulled in rows
    }


async def _by_first(cql: Cql, statement: Statement, pairs: Sequence[Pair]) -> list[tuple[int, list[Row]]]:
    """(first of the pairs, its rows); the statement takes the first and a list of the others."""
    others: dict[int, list[int]] = defaultdict(list)
    for one_id, other_id in pairs:
        others[one_id].append(other_id)
    calls: list[Call] = [
        (statement, (one_id, ids[start : start + IDS_PER_QUERY]))
        for one_id, ids in others.items()
        for start in range(0, len(ids), IDS_PER_QUERY)
    ]
    answers = await cql.execute_all(calls)
    return [(parameters[0], rows) for (_, parameters), rows in zip(calls, answers, strict=True)]


def _published(changes: Iterable[Change]) -> list[Published]:
    return [Published(change.change_id, [change.event]) for change in changes]


def _ids(rows: Iterable[Row]) -> list[int]:
    # A partition that holds nothing but its static columns answers with one row of nothing.
    return [row[0] for row in rows if row[0] is not None]
