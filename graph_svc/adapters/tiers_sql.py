"""Tiers over SQL. A mark is written in one transaction with the tier it tells, so marks never fall behind a tier."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Row, Select, delete, insert, or_, select, tuple_, update

from foundation.model.tiers import Tier
from foundation.sql.database import Database
from foundation.visibility import EdgeState
from graph_svc.adapters.edges_sql import IDS_PER_QUERY, PAIRS_PER_QUERY, raise_versions
from graph_svc.adapters.tables import FOLLOWING, TIER_CROSSINGS, USERS
from graph_svc.adapters.users_sql import follower_counts
from graph_svc.model import Crossing, Standing, Step, mark_of

_MARK_OF = {int(tier): mark_of(tier) for tier in Tier}


class SqlTiers:
    """graph_svc.ports.Tiers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def standings(self, author_ids: Sequence[int]) -> Mapping[int, Standing]:
        def work(connection: Connection) -> dict[int, Standing]:
            found: dict[int, Standing] = {}
            for start in range(0, len(author_ids), IDS_PER_QUERY):
                chunk = list(author_ids[start : start + IDS_PER_QUERY])
                found |= _standings(connection, _STANDINGS.where(USERS.c.user_id.in_(chunk)))
            return found

        return await self._database.read(work)

    async def crossings(self) -> Sequence[Standing]:
        query = _STANDINGS.where(TIER_CROSSINGS.c.direction.is_not(None))
        return list((await self._database.read(lambda connection: _standings(connection, query))).values())

    async def settle(self, standing: Standing, step: Step, *, now_ms: int) -> bool:
        return await self._database.write(lambda connection: _settle(connection, standing, step, now_ms))

    async def mark(self, follows: Sequence[tuple[int, int]]) -> Sequence[int]:
        # Looked at first: most follows need no mark, and a transaction for nothing would cost a sync.
        rows = await self._database.read(lambda connection: _marked_or_pulled(connection, follows))
        told = {row.follower_id for row in rows if row.tier >= Tier.BOTH}
        wrong = [(row.followee_id, row.follower_id) for row in rows if row.pulled != _MARK_OF[row.tier]]
        if wrong:
            told |= await self._database.write(lambda connection: _mark(connection, wrong), timeout_s=30)
        return sorted(told)


_STANDINGS = select(USERS.c.user_id, USERS.c.tier, USERS.c.tier_since_ms, TIER_CROSSINGS.c.direction).select_from(
    USERS.outerjoin(TIER_CROSSINGS, TIER_CROSSINGS.c.author_id == USERS.c.user_id)
)


def _standings(connection: Connection, query: Select[tuple[int, int, int, int]]) -> dict[int, Standing]:
    rows = connection.execute(query).all()
    counts: dict[int, int] = {}
    for start in range(0, len(rows), IDS_PER_QUERY):
        counts |= follower_counts(connection, [row.user_id for row in rows[start : start + IDS_PER_QUERY]])
    return {
        row.user_id: Standing(
            author_id=row.user_id,
            tier=Tier(row.tier),
            crossing=Crossing(row.direction) if row.direction is not None else None,
            since_ms=row.tier_since_ms,
            follower_count=counts.get(row.user_id, 0),
        )
        for row in rows
    }


def _settle(connection: Connection, standing: Standing, step: Step, now_ms: int) -> bool:
    changed = connection.execute(
        update(USERS)
        .where(USERS.c.user_id == standing.author_id, USERS.c.tier_since_ms == standing.since_ms)
        .values(tier=step.tier, tier_since_ms=max(now_ms, standing.since_ms + 1), version=USERS.c.version + 1)
    )
    if changed.rowcount == 0:
        return False
    connection.execute(delete(TIER_CROSSINGS).where(TIER_CROSSINGS.c.author_id == standing.author_id))
    if step.crossing is not None:
        connection.execute(insert(TIER_CROSSINGS).values(author_id=standing.author_id, direction=step.crossing))
    return True


def _marked_or_pulled(
    connection: Connection, follows: Sequence[tuple[int, int]]
) -> list[Row[tuple[int, int, int, int]]]:
    """Of *follows*, those that stand and whose author is pulled or whose mark says so."""
    found: list[Row[tuple[int, int, int, int]]] = []
    for start in range(0, len(follows), PAIRS_PER_QUERY):
        pairs = follows[start : start + PAIRS_PER_QUERY]
        query = (
            select(FOLLOWING.c.follower_id, FOLLOWING.c.followee_id, FOLLOWING.c.pulled, USERS.c.tier)
            .join_from(FOLLOWING, USERS, USERS.c.user_id == FOLLOWING.c.followee_id)
            .where(
                tuple_(FOLLOWING.c.followee_id, FOLLOWING.c.follower_id).in_(pairs),
                FOLLOWING.c.state == EdgeState.FOLLOWING,
                or_(USERS.c.tier >= Tier.BOTH, FOLLOWING.c.pulled != 0),
            )
        )
        found += connection.execute(query)
    return found


def _mark(connection: Connection, follows: Sequence[tuple[int, int]]) -> set[int]:
    """Whose record changed."""
    followers: dict[int, list[int]] = defaultdict(list)
    for author_id, follower_id in follows:
        followers[author_id].append(follower_id)
    changed: set[int] = set()
    authors = sorted(followers)
    for start in range(0, len(authors), IDS_PER_QUERY):
        # Locked against `settle` until this transaction ends: what is marked is what the tier says.
        tiers = (
            select(USERS.c.user_id, USERS.c.tier)
            .where(USERS.c.user_id.in_(authors[start : start + IDS_PER_QUERY]))
            .order_by(USERS.c.user_id)
            .with_for_update(read=True)
        )
        for author_id, tier in connection.execute(tiers).all():
            changed |= _mark_followers(connection, author_id, followers[author_id], _MARK_OF[tier])
    raised = sorted(changed)
    for start in range(0, len(raised), IDS_PER_QUERY):
        raise_versions(connection, raised[start : start + IDS_PER_QUERY])
    return changed


def _mark_followers(connection: Connection, author_id: int, follower_ids: Sequence[int], mark: int) -> set[int]:
    changed: set[int] = set()
    for start in range(0, len(follower_ids), IDS_PER_QUERY):
        change = (
            update(FOLLOWING)
            .where(
                FOLLOWING.c.followee_id == author_id,
                FOLLOWING.c.follower_id.in_(follower_ids[start : start + IDS_PER_QUERY]),
                FOLLOWING.c.state == EdgeState.FOLLOWING,
                FOLLOWING.c.pulled != mark,
            )
            .values(pulled=mark)
            .returning(FOLLOWING.c.follower_id)
        )
        changed.update(connection.scalars(change))
    return changed
