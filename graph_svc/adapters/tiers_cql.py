"""Tiers over Cassandra or ScyllaDB.

A standing is three columns of the account, changed by a lightweight transaction: there are few crossings, and two at
once must not both be taken. A mark is one cell that is always written at the time of its follow, and of two values at
the same time a store keeps the greater: the value begins with the time of the tier, so the newest tier stands whatever
the order, and a mark ends with its follow.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

from foundation.cql.session import Call, Cql, Statement
from foundation.cql.write_time import write_time
from graph_svc.adapters.changes_cql import USERS_AT_ONCE, parts_of, stamped
from graph_svc.adapters.edges_cql import follow_rows
from graph_svc.adapters.marks_cql import SET_MARK, mark_in, mark_value
from graph_svc.adapters.users_cql import account_rows, follower_counts
from graph_svc.adapters.versions_cql import Versions
from graph_svc.model import Crossing, Standing, Step

_SCOPE = 0
"""One small partition names all authors who cross."""

_CROSSING = Statement("SELECT author_id FROM tier_crossings WHERE scope = ?")
_ADD_CROSSING = Statement("INSERT INTO tier_crossings (scope, author_id) VALUES (?, ?) USING TIMESTAMP ?")
_DROP_CROSSING = Statement("DELETE FROM tier_crossings USING TIMESTAMP ? WHERE scope = ? AND author_id = ?")
_SETTLE = Statement(
    "UPDATE users SET tier = ?, crossing = ?, tier_since_ms = ? WHERE user_id = ? IF tier_since_ms = ?",
    idempotent=False,
)


class CqlTiers:
    """graph_svc.ports.Tiers."""

    def __init__(self, cql: Cql, versions: Versions) -> None:
        self._cql = cql
        self._versions = versions

    async def standings(self, author_ids: Sequence[int]) -> Mapping[int, Standing]:
        accounts = await account_rows(self._cql, author_ids)
        counts = await follower_counts(self._cql, list(accounts))
        return {
            author_id: Standing(
                author_id=author_id,
                tier=account.tier,
                crossing=Crossing(account.crossing) if account.crossing else None,
                since_ms=account.tier_since_ms,
                follower_count=counts[author_id],
            )
            for author_id, account in accounts.items()
        }

    async def crossings(self) -> Sequence[Standing]:
        listed = [row[0] for row in await self._cql.execute(_CROSSING, (_SCOPE,))]
        standings = (await self.standings(listed)).values()
        # Listed before the crossing began, or left by somebody who died after it ended.
        over = [standing for standing in standings if standing.crossing is None and standing.since_ms]
        await self._cql.execute_all([_dropped(standing.author_id, standing.since_ms) for standing in over])
        return [standing for standing in standings if standing.crossing is not None]

    async def settle(self, standing: Standing, step: Step, *, now_ms: int) -> bool:
        author_id = standing.author_id
        since_ms = max(now_ms, standing.since_ms + 1)
        if step.crossing is not None:
            # Before it begins: nobody who dies in between leaves a crossing that is not listed.
            await self._cql.execute(_ADD_CROSSING, (_SCOPE, author_id, since_ms * 1_000))
        crossing = int(step.crossing) if step.crossing is not None else None
        values = (int(step.tier), crossing, since_ms, author_id, standing.since_ms or None)
        async with self._versions.turn(author_id):  # transactions that meet in the store wait long for each other
            settled: bool = (await self._cql.execute(_SETTLE, values))[0][0]
        if settled and step.crossing is None:
            await self._cql.execute(*_dropped(author_id, since_ms))
        return settled

    async def mark(self, follows: Sequence[tuple[int, int]]) -> Sequence[int]:
        authors = await account_rows(self._cql, list({author_id for author_id, _ in follows}))
        # Most authors never had another tier than the first.
        crossed = {author_id: account for author_id, account in authors.items() if account.tier_since_ms}
        pairs = [(follower_id, author_id) for author_id, follower_id in follows if author_id in crossed]
        told: set[int] = set()
        quiet: list[Call] = []
        changed: dict[int, list[Call]] = defaultdict(list)
        for (follower_id, author_id), row in (await follow_rows(self._cql, pairs)).items():
            if not row.changed_id:
                continue
            author = crossed[author_id]
            wanted = mark_value(author.tier, author.tier_since_ms)
            if author.tier.pulled or mark_in(row.pulled) != mark_in(wanted):
                told.add(follower_id)
            if row.pulled < wanted:
                call = (SET_MARK, (write_time(row.changed_id), wanted, follower_id, author_id))
                if mark_in(row.pulled) == mark_in(wanted):
                    quiet.append(call)
                else:
                    changed[follower_id].append(call)
        await self._cql.execute_all(quiet)
        await self._write(changed)
        return sorted(told)

    async def _write(self, changed: Mapping[int, Sequence[Call]]) -> None:
        gate = asyncio.Semaphore(USERS_AT_ONCE)

        async def write(follower_id: int, calls: Sequence[Call]) -> None:
            async with gate, self._versions.turn(follower_id) as stamp:
                for part in parts_of([*calls, stamped(follower_id, stamp)]):
                    await self._cql.batch(part)

        for ended in await asyncio.gather(*(write(*item) for item in changed.items()), return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended


def _dropped(author_id: int, since_ms: int) -> Call:
    # At the time of the standing: a crossing that began after it stays listed.
    return _DROP_CROSSING, (since_ms * 1_000, _SCOPE, author_id)
