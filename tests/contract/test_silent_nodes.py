"""A node that does not answer is waited for once: the client behind doors that a test silences."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from foundation.errors import Internal, Unavailable
from foundation.redis.client import RedisCluster, connect, slot_of_key
from tests.kit.eventually import eventually
from tests.kit.faults import Fault, RedisDoor, Said, redis_doors

KEY, OTHER = "key:{1}", "key:{2}"
TIMEOUT_S = 0.1


@asynccontextmanager
async def two_nodes(valkey: int) -> AsyncIterator[tuple[RedisCluster, dict[str, RedisDoor]]]:
    roles = {"one": [slot_of_key(KEY)]}
    async with redis_doors(("127.0.0.1", valkey), roles) as doors:
        client = await connect([("127.0.0.1", doors["one"].port)], timeout_s=TIMEOUT_S)
        await client.flush_all()
        yield client, doors
        await client.close()


async def seconds_to_fail(client: RedisCluster, key: str = KEY) -> float:
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await client.execute([("GET", key)])
    return time.monotonic() - began


async def test_a_silent_node_is_waited_for_once_and_the_others_go_on(valkey: int) -> None:
    async with two_nodes(valkey) as (client, doors):
        await client.execute([("SET", KEY, 1), ("SET", OTHER, 2)])
        await doors["one"].breaks(Fault.SILENT)
        assert await seconds_to_fail(client) >= TIMEOUT_S
        assert await seconds_to_fail(client) < TIMEOUT_S / 2
        assert await client.execute([("GET", OTHER)]) == [b"2"]
        await doors["one"].heals()

        async def heard() -> bool:
            (reply,) = await client.try_execute([("GET", KEY)])
            return bool(reply == b"1")

        await eventually(heard, timeout_s=1)


async def test_a_node_that_stays_silent_is_not_waited_for_on_new_connections_either(valkey: int) -> None:
    async with two_nodes(valkey) as (client, doors):
        await client.execute([("SET", KEY, 1)])
        await doors["one"].breaks(Fault.SILENT)
        await seconds_to_fail(client)
        # Longer than the client holds on to the connection: it hangs up and dials again, and the kernel lets it in.
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            assert await seconds_to_fail(client) < TIMEOUT_S / 2
            await asyncio.sleep(0.05)
        await doors["one"].heals()

        async def heard() -> bool:
            (reply,) = await client.try_execute([("GET", KEY)])
            return bool(reply == b"1")

        await eventually(heard, timeout_s=2)


async def test_a_node_that_is_late_but_heard_is_waited_for(valkey: int) -> None:
    async with two_nodes(valkey) as (client, doors):
        await client.execute([("SET", KEY, 1)])
        await doors["one"].breaks(Fault.SLOW, latency_s=TIMEOUT_S / 2)
        for _ in range(3):
            assert await client.execute([("GET", KEY)]) == [b"1"]


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.CUT, Fault.GARBAGE, Fault.DOWN])
async def test_every_other_fault_is_told_within_the_timeout_and_ends(fault: Fault, valkey: int) -> None:
    async with two_nodes(valkey) as (client, doors):
        await client.execute([("SET", KEY, 1)])
        await doors["one"].breaks(fault)
        for _ in range(3):
            assert await seconds_to_fail(client) < 2 * TIMEOUT_S
        await doors["one"].heals()

        async def back() -> bool:
            (reply,) = await client.try_execute([("GET", KEY)])
            return bool(reply == b"1")

        await eventually(back, timeout_s=3)


async def test_a_node_may_fail_for_some_keys_only(valkey: int) -> None:
    async with two_nodes(valkey) as (client, doors):
        mine, others = "feed:{1}", "card:{1}"
        await client.execute([("SET", mine, 1), ("SET", others, 2)])
        door = doors["one"]
        for said, failure in ((Said.LOADING, Unavailable), (Said.NOT_SERVED, Unavailable), (Said.NOTHING, Unavailable)):
            await door.says(said, "feed:")
            (reply,) = await client.try_execute([("GET", mine)])
            assert isinstance(reply, failure), said
            await door.heals()
        await door.says(Said.NONSENSE, "feed:")

        async def heard() -> bool:
            replies = await client.try_execute([("GET", mine), ("GET", others)])
            return not isinstance(replies[0], (Internal, Unavailable)) and replies[0] != b"1" and replies[1] == b"2"

        await eventually(heard, timeout_s=2)
