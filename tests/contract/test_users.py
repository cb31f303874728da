"""The contract of accounts (graph_svc.ports.Users), over SQLite, PostgreSQL and Cassandra."""

from __future__ import annotations

import asyncio

from foundation.cql.session import Statement
from foundation.model.clock import DAY_MS
from foundation.visibility import UserState
from graph_svc.model import CreateOutcome, NewUser
from tests.kit.cassandra import migrated
from tests.kit.graph_stores import IDS, GraphStores, cql_graph_stores


def fresh(prefix: str = "u") -> str:
    return f"{prefix}{IDS.next()}"


async def made(graph: GraphStores, username: str, request: str = "", *, now_ms: int = 0) -> tuple[CreateOutcome, int]:
    ((outcome, user_id),) = await graph.users.create(
        [NewUser(IDS.next(), username, "http://a", request)], now_ms=now_ms
    )
    return outcome, user_id


async def test_an_account_is_as_it_was_made(graph: GraphStores) -> None:
    name = fresh()
    outcome, user_id = await made(graph, name)
    assert outcome is CreateOutcome.CREATED
    user = await graph.user(user_id)
    assert (user.username, user.avatar_url, user.state) == (name, "http://a", UserState.ACTIVE)
    assert (user.is_private, user.is_verified, user.follower_count, user.following_count) == (False, False, 0, 0)
    assert await graph.users.get([IDS.next()]) == {}
    assert await graph.users.resolve([name, fresh()]) == {name: user_id}


async def test_a_name_is_taken_once(graph: GraphStores) -> None:
    name, other = fresh(), fresh()
    _, user_id = await made(graph, name)
    assert await made(graph, name) == (CreateOutcome.USERNAME_TAKEN, user_id)
    new = [NewUser(IDS.next(), each) for each in (name, other, other)]
    outcomes = await graph.users.create(new, now_ms=0)
    assert sorted(outcome for outcome, _ in outcomes) == [
        CreateOutcome.CREATED, CreateOutcome.USERNAME_TAKEN, CreateOutcome.USERNAME_TAKEN,
    ]  # fmt: skip
    assert outcomes[0] == (CreateOutcome.USERNAME_TAKEN, user_id)
    assert outcomes[1][1] == outcomes[2][1]


async def test_of_many_at_once_one_gets_the_name(graph: GraphStores) -> None:
    name = fresh()
    answers = await asyncio.gather(*(made(graph, name) for _ in range(8)))
    assert [outcome for outcome, _ in answers].count(CreateOutcome.CREATED) == 1
    assert len({user_id for _, user_id in answers}) == 1


async def test_a_request_is_answered_once_for_a_day(graph: GraphStores) -> None:
    name, request = fresh(), fresh("r")
    outcome, user_id = await made(graph, name, request)
    assert outcome is CreateOutcome.CREATED
    assert await made(graph, name, request, now_ms=1) == (CreateOutcome.REPEATED, user_id)
    assert (await made(graph, fresh(), request, now_ms=1))[0] is CreateOutcome.REQUEST_MISMATCH
    assert (await made(graph, fresh(), request, now_ms=DAY_MS + 1))[0] is CreateOutcome.CREATED


async def test_a_request_whose_name_was_taken_may_be_made_with_another(graph: GraphStores) -> None:
    name, request = fresh(), fresh("r")
    _, user_id = await made(graph, name)
    assert await made(graph, name, request) == (CreateOutcome.USERNAME_TAKEN, user_id)
    assert (await made(graph, fresh(), request))[0] is CreateOutcome.CREATED


async def test_changes_of_a_profile_raise_its_version(graph: GraphStores) -> None:
    _, user_id = await made(graph, fresh())
    versions = [(await graph.user(user_id)).version]
    for number in range(3):
        await graph.users.set_avatar(user_id, f"http://{number}")
        versions.append((await graph.user(user_id)).version)
    assert versions == sorted(set(versions))
    assert (await graph.user(user_id)).avatar_url == "http://2"
    nobody = IDS.next()
    await graph.users.set_avatar(nobody, "http://x")
    assert await graph.users.get([nobody]) == {}


async def test_whoever_meets_a_name_completes_the_account_whose_maker_died(keyspaces: dict[str, str]) -> None:
    claim = Statement(
        "INSERT INTO usernames (username, user_id, avatar_url) VALUES (?, ?, ?) IF NOT EXISTS", idempotent=False
    )
    async with migrated(keyspaces, "graph_svc.adapters") as cql, cql_graph_stores(keyspaces) as graph:
        name, user_id = fresh(), IDS.next()
        await cql.execute(claim, (name, user_id, "http://theirs"))
        assert await graph.users.get([user_id]) == {}
        assert await made(graph, name) == (CreateOutcome.USERNAME_TAKEN, user_id)
        user = await graph.user(user_id)
        assert (user.username, user.avatar_url) == (name, "http://theirs")


async def test_thousands_of_accounts_in_one_call(graph: GraphStores) -> None:
    names = [fresh() for _ in range(2_000)]
    new = [NewUser(IDS.next(), name) for name in names]
    created = await graph.users.create(new, now_ms=0)
    assert created == [(CreateOutcome.CREATED, user.user_id) for user in new]
    assert await graph.users.resolve(names) == {user.username: user.user_id for user in new}
