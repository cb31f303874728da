"""Users over Cassandra or ScyllaDB.

A name and a request id are claimed by lightweight transactions, the account is one row. A name holds enough to complete
an account whose maker died in between: whoever meets the name next does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foundation.cql.session import Call, Cql, Statement
from foundation.cql.write_time import write_time
from foundation.model.clock import DAY_MS
from foundation.model.ids import Ids, time_part_of, worker_of
from foundation.model.tiers import Tier
from foundation.visibility import UserState
from graph_svc.adapters.request_digest import digest
from graph_svc.adapters.versions_cql import Versions, version_of
from graph_svc.model import CreateOutcome, NewUser, User

USERS_AT_ONCE = 1_000
CLAIMS_AT_ONCE = 128
"""Lightweight transactions take several round trips of the store: more at once would end in timeouts."""

_CLAIM_NAME = Statement(
    "INSERT INTO usernames (username, user_id, avatar_url) VALUES (?, ?, ?) IF NOT EXISTS", idempotent=False
)
_RESOLVE = Statement("SELECT username, user_id FROM usernames WHERE username = ?")
_CLAIM = Statement(
    "INSERT INTO user_requests (request_id, digest, user_id, created_ms) VALUES (?, ?, ?, ?) IF NOT EXISTS",
    idempotent=False,
)
_CLAIM_AGAIN = Statement(
    "UPDATE user_requests SET digest = ?, user_id = ?, created_ms = ? WHERE request_id = ? IF user_id = ?",
    idempotent=False,
)
_UNCLAIM = Statement("DELETE FROM user_requests WHERE request_id = ? IF user_id = ?", idempotent=False)
_INSERT = Statement(
    "INSERT INTO users (user_id, username, avatar_url, is_verified, is_private, state, stamps)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_GET = Statement(
    "SELECT user_id, username, avatar_url, is_verified, is_private, state, stamps, tier, crossing, tier_since_ms"
    " FROM users WHERE user_id = ?"
)
_SET_AVATAR = Statement("UPDATE users USING TIMESTAMP ? SET avatar_url = ?, stamps[?] = ? WHERE user_id = ?")
_FOLLOWER_COUNTS = Statement("SELECT n FROM follower_buckets WHERE followee_id = ?")
_FOLLOWING_COUNT = Statement("SELECT COUNT(changed_id) FROM following WHERE follower_id = ?")


class CqlUsers:
    """graph_svc.ports.Users."""

    def __init__(self, cql: Cql, ids: Ids) -> None:
        self._cql = cql
        self._versions = Versions(ids)
        self._claims = asyncio.Semaphore(CLAIMS_AT_ONCE)

    async def create(self, users: Sequence[NewUser], *, now_ms: int) -> Sequence[tuple[CreateOutcome, int]]:
        created: list[tuple[CreateOutcome, int]] = []
        for outcome in await asyncio.gather(*(self._create(user, now_ms) for user in users), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            created.append(outcome)
        return created

    async def get(self, user_ids: Sequence[int]) -> Mapping[int, User]:
        return await read_users(self._cql, user_ids)

    async def set_avatar(self, user_id: int, avatar_url: str) -> None:
        async with self._versions.turn(user_id) as stamp:
            if await account_rows(self._cql, [user_id]):
                await self._cql.execute(_SET_AVATAR, (stamp.write_us, avatar_url, stamp.cell, stamp.value, user_id))

    async def resolve(self, usernames: Sequence[str]) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(usernames), USERS_AT_ONCE):
            calls: list[Call] = [(_RESOLVE, (name,)) for name in usernames[start : start + USERS_AT_ONCE]]
            found.update((row[0], row[1]) for rows in await self._cql.execute_all(calls) for row in rows)
        return found

    async def _create(self, user: NewUser, now_ms: int) -> tuple[CreateOutcome, int]:
        async with self._claims:
            outcome, user_id = CreateOutcome.CREATED, user.user_id
            if user.request_id:
                outcome, user_id = await self._claim(user, now_ms)
                if outcome is not CreateOutcome.CREATED:
                    return outcome, user_id
            row = (await self._cql.execute(_CLAIM_NAME, (user.username, user_id, user.avatar_url)))[0]
            if row[0]:
                await self._cql.execute(*_inserted(user_id, user.username, user.avatar_url))
                return outcome, user_id
            # Not applied: the columns of the row that is there follow, the key first and the others by name.
            _, username, avatar_url, taken_id = row
            if not await account_rows(self._cql, [taken_id]):
                await self._cql.execute(*_inserted(taken_id, username, avatar_url))
            if taken_id == user_id:
                return outcome, user_id  # ours: an earlier try of this request came this far
            if user.request_id:
                # The request made nothing: it may be repeated with another name.
                await self._cql.execute(_UNCLAIM, (user.request_id, user_id))
            return CreateOutcome.USERNAME_TAKEN, taken_id

    async def _claim(self, user: NewUser, now_ms: int) -> tuple[CreateOutcome, int]:
        """What a request id stands for, and the id of its account. CREATED: the account is still to be written."""
        mine = digest(user)
        row = (await self._cql.execute(_CLAIM, (user.request_id, mine, user.user_id, now_ms)))[0]
        if row[0]:
            return CreateOutcome.CREATED, user.user_id
        _, _, claimed_ms, theirs, claimed_id = row
        if claimed_ms < now_ms - DAY_MS:
            again = (mine, user.user_id, now_ms, user.request_id, claimed_id)
            if (await self._cql.execute(_CLAIM_AGAIN, again))[0][0]:
                return CreateOutcome.CREATED, user.user_id
            return await self._claim(user, now_ms)
        if theirs != mine:
            return CreateOutcome.REQUEST_MISMATCH, claimed_id
        if await account_rows(self._cql, [claimed_id]):
            return CreateOutcome.REPEATED, claimed_id
        # Whoever claimed it did not come to write: the account is made now, under the id that was promised.
        return CreateOutcome.CREATED, claimed_id


@dataclass(slots=True, frozen=True, kw_only=True)
class AccountRow:
    """An account as it lies in one row."""

    user_id: int
    username: str
    avatar_url: str
    is_verified: bool
    is_private: bool
    state: UserState
    version: int
    """Of all that the row holds."""
    tier: Tier
    crossing: int
    """0 where there is none."""
    tier_since_ms: int
    """0 if the tier never changed."""


async def account_rows(cql: Cql, user_ids: Sequence[int]) -> dict[int, AccountRow]:
    """The accounts that exist."""
    found: dict[int, AccountRow] = {}
    for start in range(0, len(user_ids), USERS_AT_ONCE):
        calls: list[Call] = [(_GET, (user_id,)) for user_id in user_ids[start : start + USERS_AT_ONCE]]
        for rows in await cql.execute_all(calls):
            for user_id, username, avatar_url, is_verified, is_private, state, stamps, tier, crossing, since_ms in rows:
                # A row without a name is what a write on an account that is not there yet has left.
                if username is not None:
                    found[user_id] = AccountRow(
                        user_id=user_id,
                        username=username,
                        avatar_url=avatar_url,
                        is_verified=is_verified,
                        is_private=is_private,
                        state=UserState(state),
                        version=version_of(stamps) + (since_ms or 0),
                        tier=Tier(tier or Tier.PUSH),
                        crossing=crossing or 0,
                        tier_since_ms=since_ms or 0,
                    )
    return found


async def follower_counts(cql: Cql, user_ids: Sequence[int]) -> dict[int, int]:
    """How many follow each."""
    found: dict[int, int] = {}
    for start in range(0, len(user_ids), USERS_AT_ONCE):
        chunk = user_ids[start : start + USERS_AT_ONCE]
        answers = await cql.execute_all([(_FOLLOWER_COUNTS, (user_id,)) for user_id in chunk])
        found.update((user_id, sum(n for (n,) in rows)) for user_id, rows in zip(chunk, answers, strict=True))
    return found


async def following_counts(cql: Cql, user_ids: Sequence[int]) -> dict[int, int]:
    """How many each follows: exact by construction, since a follow is there or not, however often it was written."""
    found: dict[int, int] = {}
    for start in range(0, len(user_ids), USERS_AT_ONCE):
        chunk = user_ids[start : start + USERS_AT_ONCE]
        answers = await cql.execute_all([(_FOLLOWING_COUNT, (user_id,)) for user_id in chunk])
        found.update((user_id, rows[0][0]) for user_id, rows in zip(chunk, answers, strict=True))
    return found


async def read_users(cql: Cql, user_ids: Sequence[int]) -> dict[int, User]:
    """The accounts that exist, with their counts."""
    accounts = await account_rows(cql, user_ids)
    ids = list(accounts)
    followers, following = await asyncio.gather(follower_counts(cql, ids), following_counts(cql, ids))
    return {
        user_id: User(
            user_id=user_id,
            username=account.username,
            avatar_url=account.avatar_url,
            is_verified=account.is_verified,
            is_private=account.is_private,
            state=account.state,
            version=account.version,
            follower_count=followers[user_id],
            following_count=following[user_id],
        )
        for user_id, account in accounts.items()
    }


def _inserted(user_id: int, username: str, avatar_url: str) -> Call:
    stamps = {worker_of(user_id): time_part_of(user_id)}
    row = (user_id, username, avatar_url, False, False, int(UserState.ACTIVE), stamps, write_time(user_id))
    return _INSERT, row
