"""Edges over SQL: every change one transaction with its event and the viewers' new versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from foundation.events.outbox import slot_key
from foundation.events.port import GRAPH_BY_FOLLOWEE, PRIVACY
from foundation.events.sql_outbox import events_of, insert_or_ignore, topics_text
from foundation.model.tiers import Tier
from foundation.sql.database import Database
from foundation.visibility import EdgeState, UserState
from graph_svc.adapters.follow_decisions import decide_follows, decide_unfollows
from graph_svc.adapters.graph_events import block_event, follow_event
from graph_svc.adapters.tables import BLOCKS, FOLLOWERS, FOLLOWING, GRAPH_CHANGES, MUTES, OPEN_SLOTS, USERS
from graph_svc.adapters.users_sql import users_by_id
from graph_svc.model import (
    FOLLOWERS_PER_PAGE,
    AppliedFollow,
    FollowChange,
    FollowResult,
    ListedUser,
    Published,
    Relationship,
    mark_of,
)

PAIRS_PER_QUERY = 400
IDS_PER_QUERY = 1_000
FOLLOWER_ROWS_PER_QUERY = 5_000

_CHANGE_VIEWERS = (
    update(USERS)
    .where(USERS.c.user_id == bindparam("viewer"))
    .values(
        following_count=USERS.c.following_count + bindparam("more"),
        graph_version=USERS.c.graph_version + 1,
    )
)


class SqlEdges:
    """graph_svc.ports.Edges."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def follow(self, changes: Sequence[FollowChange], *, limit: int) -> FollowResult:
        return await self._database.write(lambda connection: _follow(connection, changes, limit), timeout_s=30)

    async def unfollow(self, changes: Sequence[FollowChange]) -> FollowResult:
        return await self._database.write(lambda connection: _unfollow(connection, changes))

    async def block(self, blocker_id: int, blocked_id: int, *, change_ids: tuple[int, int, int]) -> Sequence[Published]:
        def work(connection: Connection) -> list[Published]:
            if _is_there(connection, BLOCKS, blocker_id, blocked_id):
                return []
            connection.execute(insert(BLOCKS).values(blocker_id=blocker_id, blocked_id=blocked_id))
            raise_versions(connection, [blocker_id, blocked_id])
            ended = _unfollow(
                connection,
                [
                    FollowChange(change_ids[1], blocker_id, blocked_id),
                    FollowChange(change_ids[2], blocked_id, blocker_id),
                ],
            )
            return [_note(connection, change_ids[0], blocker_id, blocked_id, blocked=True), *ended.published]

        return await self._database.write(work)

    async def unblock(self, blocker_id: int, blocked_id: int, *, change_id: int) -> Sequence[Published]:
        def work(connection: Connection) -> list[Published]:
            if not _is_there(connection, BLOCKS, blocker_id, blocked_id):
                return []
            connection.execute(
                delete(BLOCKS).where(BLOCKS.c.blocker_id == blocker_id, BLOCKS.c.blocked_id == blocked_id)
            )
            raise_versions(connection, [blocker_id, blocked_id])
            return [_note(connection, change_id, blocker_id, blocked_id, blocked=False)]

        return await self._database.write(work)

    async def mute(self, muter_id: int, muted_id: int) -> None:
        def work(connection: Connection) -> None:
            if not _is_there(connection, MUTES, muter_id, muted_id):
                connection.execute(insert(MUTES).values(muter_id=muter_id, muted_id=muted_id))
                raise_versions(connection, [muter_id])

        await self._database.write(work)

    async def unmute(self, muter_id: int, muted_id: int) -> None:
        def work(connection: Connection) -> None:
            if _is_there(connection, MUTES, muter_id, muted_id):
                connection.execute(delete(MUTES).where(MUTES.c.muter_id == muter_id, MUTES.c.muted_id == muted_id))
                raise_versions(connection, [muter_id])

        await self._database.write(work)

    async def relationship(self, viewer_id: int, other_id: int) -> Relationship:
        def work(connection: Connection) -> Relationship:
            follows = following_rows(connection, [(viewer_id, other_id), (other_id, viewer_id)])
            states = {pair: row.state for pair, row in follows.items()}
            blocked = _blocks_between(connection, [(viewer_id, other_id)])
            return Relationship(
                following=states.get((viewer_id, other_id)) == EdgeState.FOLLOWING,
                followed_by=states.get((other_id, viewer_id)) == EdgeState.FOLLOWING,
                blocking=(viewer_id, other_id) in blocked,
                blocked_by=(other_id, viewer_id) in blocked,
                muting=_is_there(connection, MUTES, viewer_id, other_id),
            )

        return await self._database.read(work)

    async def followers(self, user_id: int, *, before: int, limit: int) -> Sequence[ListedUser]:
        query = select(FOLLOWERS.c.follower_id, FOLLOWERS.c.followed_id).where(FOLLOWERS.c.followee_id == user_id)
        return await self._listed(query, FOLLOWERS.c.followed_id, before, limit)

    async def following(self, user_id: int, *, before: int, limit: int) -> Sequence[ListedUser]:
        query = select(FOLLOWING.c.followee_id, FOLLOWING.c.changed_id).where(
            FOLLOWING.c.follower_id == user_id, FOLLOWING.c.state == EdgeState.FOLLOWING
        )
        return await self._listed(query, FOLLOWING.c.changed_id, before, limit)

    async def follower_pages(self, user_ids: Sequence[int]) -> AsyncIterator[tuple[int, Sequence[int]]]:
        after = (0, -1, 0)
        ordered = sorted(set(user_ids))
        while ordered:
            rows = await self._database.read(partial(_follower_rows, user_ids=ordered, after=after))
            for user_id, page in groupby(rows, key=itemgetter(0)):
                followers = [follower_id for _, _, follower_id in page]
                for start in range(0, len(followers), FOLLOWERS_PER_PAGE):
                    yield user_id, followers[start : start + FOLLOWERS_PER_PAGE]
            if len(rows) < FOLLOWER_ROWS_PER_QUERY:
                return
            after = rows[-1]
            ordered = [user_id for user_id in ordered if user_id >= after[0]]

    async def _listed(self, query: Select[Any], place: Any, before: int, limit: int) -> Sequence[ListedUser]:
        if before:
            query = query.where(place < before)

        def work(connection: Connection) -> list[ListedUser]:
            rows = [(user_id, at) for user_id, at in connection.execute(query.order_by(place.desc()).limit(limit))]
            users = users_by_id(connection, [user_id for user_id, _ in rows])
            return [ListedUser(users[user_id], at) for user_id, at in rows if user_id in users]

        return await self._database.read(work)


def _follow(connection: Connection, changes: Sequence[FollowChange], limit: int) -> FollowResult:
    pairs = [(change.follower_id, change.followee_id) for change in changes]
    active = _active_users(connection, {user_id for pair in pairs for user_id in pair})
    blocked = _blocks_between(connection, pairs)
    existing = following_rows(connection, pairs)
    follows = {pair for pair, row in existing.items() if row.state == EdgeState.FOLLOWING}
    counts = {user_id: row.following_count for user_id, row in active.items()}
    outcomes, made = decide_follows(changes, active=counts, blocked=blocked, existing=follows, limit=limit)
    # The next read pulls a pulled author at once. The consumer marks again after it wrote the followers row: the tier
    # may change before that.
    marks = {change.followee_id: mark_of(Tier(active[change.followee_id].tier)) for change in made}
    return FollowResult(outcomes, _write_follows(connection, made, EdgeState.FOLLOWING, marks))


def _unfollow(connection: Connection, changes: Sequence[FollowChange]) -> FollowResult:
    pairs = [(change.follower_id, change.followee_id) for change in changes]
    known = _active_users(connection, {user_id for pair in pairs for user_id in pair})
    existing = following_rows(connection, pairs)
    follows = {pair for pair, row in existing.items() if row.state == EdgeState.FOLLOWING}
    outcomes, ended = decide_unfollows(changes, active=known, existing=follows)
    return FollowResult(outcomes, _write_follows(connection, ended, EdgeState.NONE, {}))


def _write_follows(
    connection: Connection, changes: Sequence[FollowChange], state: EdgeState, marks: Mapping[int, int]
) -> list[Published]:
    """Rows, events, sweep slots, counts and versions of real changes; *marks* by followee, 0 where there is none."""
    if not changes:
        return []
    following = state is EdgeState.FOLLOWING
    rows: list[dict[str, object]] = []
    published = []
    for change in changes:
        value = follow_event(AppliedFollow(change.change_id, change.follower_id, change.followee_id, following))
        key = slot_key(change.change_id)
        rows.append(
            {
                "follower_id": change.follower_id,
                "followee_id": change.followee_id,
                "state": state,
                "changed_id": change.change_id,
                "bucket": 0,
                "pulled": marks.get(change.followee_id, 0),
                "slot": key.slot,
                "worker": key.worker,
                "event_topics": GRAPH_BY_FOLLOWEE,
                "event_key": change.followee_id,
                "event_value": value,
            }
        )
        published.append(Published(change.change_id, events_of(GRAPH_BY_FOLLOWEE, change.followee_id, value)))
    make = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    upsert = make(FOLLOWING)
    # The bucket stays: it says where the followers row lies until the consumer has moved it.
    kept = {name: upsert.excluded[name] for name in rows[0] if name not in ("follower_id", "followee_id", "bucket")}
    connection.execute(upsert.on_conflict_do_update(index_elements=["follower_id", "followee_id"], set_=kept), rows)
    _open_slots(connection, [change.change_id for change in changes])
    deltas = Counter(change.follower_id for change in changes)
    sign = 1 if following else -1
    connection.execute(_CHANGE_VIEWERS, [{"viewer": user, "more": sign * count} for user, count in deltas.items()])
    return published


def _note(connection: Connection, change_id: int, blocker_id: int, blocked_id: int, *, blocked: bool) -> Published:
    value = block_event(change_id, blocker_id=blocker_id, blocked_id=blocked_id, blocked=blocked)
    key = slot_key(change_id)
    connection.execute(
        insert(GRAPH_CHANGES).values(
            change_id=change_id,
            slot=key.slot,
            worker=key.worker,
            event_topics=topics_text([PRIVACY]),
            event_key=blocker_id,
            event_value=value,
        )
    )
    _open_slots(connection, [change_id])
    return Published(change_id, events_of(PRIVACY, blocker_id, value))


def _open_slots(connection: Connection, change_ids: Iterable[int]) -> None:
    keys = {slot_key(change_id) for change_id in change_ids}
    insert_or_ignore(connection, OPEN_SLOTS, [{"slot": key.slot, "worker": key.worker} for key in keys])


def raise_versions(connection: Connection, user_ids: Sequence[int]) -> None:
    """The viewer records of at most IDS_PER_QUERY users have changed."""
    connection.execute(
        update(USERS).where(USERS.c.user_id.in_(user_ids)).values(graph_version=USERS.c.graph_version + 1)
    )


def _is_there(connection: Connection, table: Table, one_id: int, other_id: int) -> bool:
    one, other = list(table.primary_key.columns)
    return connection.execute(select(one).where(one == one_id, other == other_id)).first() is not None


def _active_users(connection: Connection, user_ids: set[int]) -> dict[int, Row[Any]]:
    """`following_count` and `tier` of the active users."""
    found: dict[int, Row[Any]] = {}
    ordered = sorted(user_ids)
    for start in range(0, len(ordered), IDS_PER_QUERY):
        query = select(USERS.c.user_id, USERS.c.following_count, USERS.c.tier).where(
            USERS.c.user_id.in_(ordered[start : start + IDS_PER_QUERY]), USERS.c.state == UserState.ACTIVE
        )
        found.update({row.user_id: row for row in connection.execute(query)})
    return found


def following_rows(connection: Connection, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Any]:
    """The durable follows of (follower, followee) pairs, ended ones too."""
    found = {}
    for start in range(0, len(pairs), PAIRS_PER_QUERY):
        query = select(FOLLOWING).where(
            tuple_(FOLLOWING.c.follower_id, FOLLOWING.c.followee_id).in_(pairs[start : start + PAIRS_PER_QUERY])
        )
        for row in connection.execute(query):
            found[row.follower_id, row.followee_id] = row
    return found


def _blocks_between(connection: Connection, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for start in range(0, len(pairs), PAIRS_PER_QUERY):
        chunk = pairs[start : start + PAIRS_PER_QUERY]
        both = [*chunk, *((other, one) for one, other in chunk)]
        query = select(BLOCKS).where(tuple_(BLOCKS.c.blocker_id, BLOCKS.c.blocked_id).in_(both))
        found.update((row.blocker_id, row.blocked_id) for row in connection.execute(query))
    return found


def _follower_rows(
    connection: Connection, user_ids: Sequence[int], after: tuple[int, int, int]
) -> list[tuple[int, int, int]]:
    """(followee, bucket, follower) after *after*, in that order."""
    columns = (FOLLOWERS.c.followee_id, FOLLOWERS.c.bucket, FOLLOWERS.c.follower_id)
    query = (
        select(*columns)
        .where(FOLLOWERS.c.followee_id.in_(user_ids), tuple_(*columns) > after)
        .order_by(*columns)
        .limit(FOLLOWER_ROWS_PER_QUERY)
    )
    return [(row.followee_id, row.bucket, row.follower_id) for row in connection.execute(query)]
