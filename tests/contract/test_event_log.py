"""The contract of the event log (foundation.events.port), over every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from foundation.errors import Unavailable
from foundation.events import sql_log
from foundation.events.port import (
    GRAPH_BY_FOLLOWEE,
    POSTS_CREATED,
    POSTS_DELETED,
    PRIVACY,
    TOPICS,
    Event,
    EventLog,
    Record,
)
from foundation.events.sql_log import LOG_TABLES, RECORDS, SqlEventLog
from foundation.model.clock import SystemClock
from foundation.sql.database import open_database

GROUP = "readers"


class OpenLog(Protocol):
    """Opens the log as one more process would."""

    def __call__(self) -> AbstractAsyncContextManager[EventLog]: ...


@pytest.fixture
def open_log(tmp_path: Path) -> OpenLog:
    @asynccontextmanager
    async def opened() -> AsyncIterator[EventLog]:
        async with open_database(f"sqlite:///{tmp_path}/log.db", LOG_TABLES) as database:
            yield SqlEventLog(database, SystemClock())

    return opened


@pytest.fixture(params=["sqlite file", "sqlite memory"])
async def log(request: pytest.FixtureRequest, open_log: OpenLog) -> AsyncIterator[EventLog]:
    if request.param == "sqlite file":
        async with open_log() as opened:
            yield opened
    else:
        async with open_database("sqlite://", LOG_TABLES) as database:
            yield SqlEventLog(database, SystemClock())


def event(n: int, topic: str = POSTS_CREATED, *, key: int = 1) -> Event:
    return Event(topic, key, b"%d" % n)


def numbers(records: Sequence[Record]) -> list[int]:
    return [int(record.value) for record in records]


async def poll(
    log: EventLog, *topics: str, group: str = GROUP, most: int = 500, wait_s: float = 0.0
) -> Sequence[Record]:
    return await log.poll(group, topics or (POSTS_CREATED,), max_records=most, wait_s=wait_s)


async def test_what_is_appended_is_read_in_order_and_whole(log: EventLog) -> None:
    before_ms = SystemClock().now_ms()
    await log.append([Event(POSTS_CREATED, 2**62 + 1, b"\x00\xff1", {"x-tier": "PUSH", "x-name": "ø"})])
    await log.append([event(2), event(3)])
    first, second, third = await poll(log)
    assert (first.topic, first.key, first.value) == (POSTS_CREATED, 2**62 + 1, b"\x00\xff1")
    assert first.headers == {"x-tier": "PUSH", "x-name": "ø"}
    assert second.headers == {}
    assert first.offset < second.offset < third.offset
    assert first.partition == second.partition
    assert before_ms <= first.timestamp_ms <= SystemClock().now_ms()
    assert numbers([second, third]) == [2, 3]


async def test_nothing_appended_is_nothing(log: EventLog) -> None:
    await log.append([])
    assert await poll(log) == []


async def test_only_the_topics_asked_for_are_read(log: EventLog) -> None:
    await log.append([event(n, topic) for n, topic in enumerate(TOPICS)])
    assert {record.topic for record in await poll(log, PRIVACY, POSTS_DELETED)} == {PRIVACY, POSTS_DELETED}


async def test_each_poll_goes_on_where_the_last_one_ended(log: EventLog) -> None:
    await log.append([event(n, (POSTS_CREATED, PRIVACY)[n % 2]) for n in range(25)])
    batches = [numbers(await poll(log, POSTS_CREATED, PRIVACY, most=10)) for _ in range(4)]
    assert [len(batch) for batch in batches] == [10, 10, 5, 0]
    assert [n for batch in batches for n in batch] == list(range(25))


async def test_a_busy_topic_does_not_hide_the_other(log: EventLog) -> None:
    await log.append([event(n) for n in range(30)])
    await log.append([event(99, PRIVACY)])
    seen = [n for _ in range(4) for n in numbers(await poll(log, POSTS_CREATED, PRIVACY, most=10))]
    assert seen == [*range(30), 99]


async def test_groups_do_not_disturb_each_other(log: EventLog) -> None:
    await log.append([event(1)])
    records = await poll(log, group="one")
    await log.commit("one", records)
    assert numbers(await poll(log, group="another")) == [1]
    assert await log.lag("one", [POSTS_CREATED]) == 0
    assert await log.lag("another", [POSTS_CREATED]) == 1


async def test_a_new_group_starts_at_the_oldest_record(log: EventLog) -> None:
    await log.append([event(n) for n in range(5)])
    await log.commit(GROUP, await poll(log))
    assert numbers(await poll(log, group="newcomer")) == [0, 1, 2, 3, 4]


async def test_a_poll_waits_no_longer_than_told(log: EventLog) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await poll(log, wait_s=0.2) == []
    assert 0.15 < loop.time() - began < 2


async def test_an_append_wakes_every_waiting_poller(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_log, "LOOK_AGAIN_S", 60.0)
    waiting = [asyncio.create_task(poll(log, group=f"g{n}", wait_s=30)) for n in range(5)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    await log.append([event(1)])
    async with asyncio.timeout(5):
        assert [numbers(records) for records in await asyncio.gather(*waiting)] == [[1]] * 5


async def test_no_append_is_slept_through(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_log, "LOOK_AGAIN_S", 60.0)
    count = 100
    seen: dict[str, list[int]] = {"one": [], "two": [], "three": []}

    async def read(group: str) -> None:
        while len(seen[group]) < count:
            seen[group] += numbers(await poll(log, group=group, most=7, wait_s=30))

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        for group in seen:
            tasks.create_task(read(group))
        for n in range(count):
            await log.append([event(n)])
    assert all(numbers == list(range(count)) for numbers in seen.values())


async def test_an_append_during_the_look_is_not_slept_through(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_log, "LOOK_AGAIN_S", 60.0)
    for n in range(20):
        polling = asyncio.create_task(poll(log, wait_s=30))
        appending = asyncio.create_task(log.append([event(n)]))
        async with asyncio.timeout(5):
            assert numbers(await polling) == [n]
            await appending


async def test_concurrent_appends_are_each_read_once(log: EventLog) -> None:
    await asyncio.gather(*(log.append([event(n, key=n), event(n + 1000, key=n)]) for n in range(100)))
    seen = numbers(await poll(log))
    assert sorted(seen) == sorted([*range(100), *range(1000, 1100)])
    assert all(seen.index(n) < seen.index(n + 1000) for n in range(100))


async def test_a_poll_that_is_cancelled_loses_nothing(log: EventLog) -> None:
    await log.append([event(1)])
    for turns in range(6):
        polling = asyncio.create_task(poll(log, group=f"after {turns} turns"))
        for _ in range(turns):
            await asyncio.sleep(0)
        polling.cancel()
        (result,) = await asyncio.gather(polling, return_exceptions=True)
        if isinstance(result, asyncio.CancelledError):
            assert numbers(await poll(log, group=f"after {turns} turns")) == [1]


async def test_rewind_reads_again_what_is_not_committed(log: EventLog) -> None:
    await log.append([event(n) for n in range(5)])
    await log.commit(GROUP, await poll(log, most=2))
    assert numbers(await poll(log)) == [2, 3, 4]
    await log.rewind(GROUP, [POSTS_CREATED])
    assert numbers(await poll(log)) == [2, 3, 4]
    assert await poll(log) == []


async def test_a_commit_covers_all_before_it(log: EventLog) -> None:
    await log.append([event(n) for n in range(5)])
    records = await poll(log)
    await log.commit(GROUP, [records[3], records[2]])
    await log.rewind(GROUP, [POSTS_CREATED])
    assert numbers(await poll(log)) == [4]


async def test_a_late_commit_takes_nobody_back(log: EventLog) -> None:
    await log.append([event(n) for n in range(5)])
    records = await poll(log)
    await log.commit(GROUP, records)
    await log.commit(GROUP, records[:2])
    await log.commit(GROUP, [])
    assert await log.lag(GROUP, [POSTS_CREATED]) == 0


async def test_lag_counts_what_is_not_committed(log: EventLog) -> None:
    topics = [POSTS_CREATED, PRIVACY]
    assert await log.lag(GROUP, topics) == 0
    await log.append([event(1), event(2), event(3, PRIVACY), event(4, GRAPH_BY_FOLLOWEE)])
    assert await log.lag(GROUP, topics) == 3
    await log.commit(GROUP, [record for record in await poll(log, *topics) if record.topic == PRIVACY])
    assert await log.lag(GROUP, topics) == 2


async def test_after_a_restart_the_committed_is_done_and_the_rest_comes_again(open_log: OpenLog) -> None:
    async with open_log() as log:
        await log.append([event(n) for n in range(6)])
        await log.commit(GROUP, await poll(log, most=2))
        await poll(log, most=2)
    async with open_log() as restarted:
        assert await restarted.lag(GROUP, [POSTS_CREATED]) == 4
        assert numbers(await poll(restarted)) == [2, 3, 4, 5]


async def test_what_another_process_appends_is_seen_while_waiting(open_log: OpenLog) -> None:
    async with open_log() as reader, open_log() as writer:
        waiting = [asyncio.create_task(poll(reader, group=f"g{n}", wait_s=10)) for n in range(3)]
        await asyncio.sleep(0.1)
        await writer.append([event(1)])
        async with asyncio.timeout(5):
            assert [numbers(records) for records in await asyncio.gather(*waiting)] == [[1]] * 3
        waiting = [asyncio.create_task(poll(reader, group=f"g{n}", wait_s=10)) for n in range(3)]
        await asyncio.sleep(0.1)
        await writer.append([event(2)])
        async with asyncio.timeout(5):
            assert [numbers(records) for records in await asyncio.gather(*waiting)] == [[2]] * 3


async def test_a_log_that_cannot_take_records_says_so(tmp_path: Path) -> None:
    async with open_database(f"sqlite:///{tmp_path}/log.db", LOG_TABLES) as database:
        log = SqlEventLog(database, SystemClock())
        await log.append([event(1)])
        await database.write(lambda connection: RECORDS.drop(connection))
        with pytest.raises(Unavailable):
            await log.append([event(2)])
        with pytest.raises(Unavailable):
            await poll(log)
        await database.write(lambda connection: LOG_TABLES.create_all(connection))
        await log.append([event(3)])
        assert numbers(await poll(log)) == [3]
