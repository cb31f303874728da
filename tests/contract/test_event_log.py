"""The contract of the event log (foundation.events.port), over every adapter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Protocol

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from feedmesh.events.v1.post_events_pb2 import PostDeleted

from foundation.errors import Unavailable
from foundation.events import kafka_log as kafka_adapter
from foundation.events import kafka_topics as topics_adapter
from foundation.events import sql_log
from foundation.events.envelope import encode
from foundation.events.kafka_log import KafkaEventLog, kafka_log
from foundation.events.kafka_topics import Remedy, TopicSpec, apply_topics, plan_topics
from foundation.events.port import (
    DEAD_LETTERS,
    GRAPH_BY_FOLLOWEE,
    POSTS_CREATED,
    POSTS_DELETED,
    PRIVACY,
    RETRY_5S,
    TOPICS,
    Event,
    EventLog,
    Record,
)
from foundation.events.retries import ERROR_CLASS, dead_letter
from foundation.events.sql_log import LOG_TABLES, RECORDS, SqlEventLog
from foundation.events.tail import Tail
from foundation.model.clock import DAY_MS, Millis, SystemClock
from foundation.sql.database import open_database
from tests.kit.eventually import eventually
from tests.kit.kafka import KafkaBroker, Kafkas

GROUP = "readers"
TESTS = count()
JOINED_WITHIN_S = 10.0
QUIET_S = 0.5


class OpenLog(Protocol):
    """Opens the log as one more process would."""

    def __call__(self) -> AbstractAsyncContextManager[EventLog]: ...


class OpenKafka(Protocol):
    """Opens the log over Kafka; what is given goes to kafka_log."""

    def __call__(self, **settings: Any) -> AbstractAsyncContextManager[KafkaEventLog]: ...


@pytest.fixture
def open_sqlite(tmp_path: Path) -> OpenLog:
    @asynccontextmanager
    async def opened() -> AsyncIterator[EventLog]:
        async with open_database(f"sqlite:///{tmp_path}/log.db", LOG_TABLES) as database:
            yield SqlEventLog(database, SystemClock())

    return opened


@pytest.fixture
def open_kafka(request: pytest.FixtureRequest, kafkas: Kafkas, kafka: str) -> OpenKafka:
    """Over topics and groups of the test's own, of one partition or as many as its mark `partitions` tells."""
    prefix = f"t{next(TESTS)}."
    mark = request.node.get_closest_marker("partitions")
    kafkas.call(make_topics(kafka, prefix, mark.args[0] if mark else 1))

    def opened(**settings: Any) -> AbstractAsyncContextManager[KafkaEventLog]:
        return kafka_log(kafka, SystemClock(), prefix=prefix, **settings)

    return opened


@pytest.fixture(params=["sqlite", "kafka"])
def open_log(request: pytest.FixtureRequest) -> OpenLog:
    opened: OpenLog = request.getfixturevalue(f"open_{request.param}")
    return opened


@pytest.fixture(params=["sqlite file", "sqlite memory", "kafka"])
def log_opener(request: pytest.FixtureRequest) -> OpenLog:
    if request.param == "sqlite memory":
        return open_in_memory
    opened: OpenLog = request.getfixturevalue("open_sqlite" if request.param == "sqlite file" else "open_kafka")
    return opened


@pytest.fixture
async def log(log_opener: OpenLog) -> AsyncIterator[EventLog]:
    async with log_opener() as opened:
        yield opened


@asynccontextmanager
async def open_in_memory() -> AsyncIterator[EventLog]:
    async with open_database("sqlite://", LOG_TABLES) as database:
        yield SqlEventLog(database, SystemClock())


async def make_topics(servers: str, prefix: str, partitions: int) -> None:
    specs = [replace(topic, name=prefix + topic.name, partitions=partitions) for topic in topics_adapter.TOPICS]
    await apply_topics(servers, topics=specs)


def event(n: int, topic: str = POSTS_CREATED, *, key: int = 1) -> Event:
    return Event(topic, key, b"%d" % n)


def numbers(records: Sequence[Record]) -> list[int]:
    return [int(record.value) for record in records]


async def poll(
    log: EventLog, *topics: str, group: str = GROUP, most: int = 500, wait_s: float = 0.0
) -> Sequence[Record]:
    wanted = topics or (POSTS_CREATED,)
    if wait_s or not isinstance(log, KafkaEventLog):
        return await log.poll(group, wanted, max_records=most, wait_s=wait_s)
    # Kafka first agrees with the group on who reads what, and then hands out what one fetch has brought: what is there
    # takes a while to come, and comes in pieces.
    records: list[Record] = []
    loop = asyncio.get_running_loop()
    quiet_at = loop.time() + JOINED_WITHIN_S
    while len(records) < most and loop.time() < quiet_at:
        came = await log.poll(group, wanted, max_records=most - len(records), wait_s=0.05)
        records += came
        if came or (quiet_at > loop.time() + QUIET_S and owned_by(log, group)):
            quiet_at = loop.time() + QUIET_S
    return records


def owned_by(log: KafkaEventLog, group: str) -> set[tuple[str, int]]:
    """The partitions that *log* reads for *group*."""
    return {place for member in log._members_of(group) for place in member._owned}


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
    seen = [n for batch in batches for n in batch]
    # Kafka keeps no order between topics.
    assert sorted(seen) == list(range(25))
    for topic in (0, 1):
        assert [n for n in seen if n % 2 == topic] == list(range(topic, 25, 2))


async def test_a_busy_topic_does_not_hide_the_other(log: EventLog) -> None:
    await log.append([event(n) for n in range(30)])
    await log.append([event(99, PRIVACY)])
    seen = [n for _ in range(4) for n in numbers(await poll(log, POSTS_CREATED, PRIVACY, most=10))]
    assert sorted(seen) == [*range(30), 99]
    assert [n for n in seen if n != 99] == list(range(30))


async def test_who_reads_alone_has_all_of_the_share(log: EventLog) -> None:
    await log.append([event(1)])
    assert numbers(await poll(log)) == [1]
    assert await log.share(GROUP, [POSTS_CREATED]) == 1.0


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


async def test_who_has_read_everything_reads_again_what_is_taken_back(log: EventLog) -> None:
    await log.append([event(1)])
    assert numbers(await poll(log)) == [1]
    assert numbers(await poll(log)) == []
    await log.rewind(GROUP, [POSTS_CREATED])
    assert numbers(await poll(log)) == [1]
    assert numbers(await poll(log)) == []
    await log.rewind(GROUP, [POSTS_CREATED])
    assert numbers(await poll(log, group="another")) == [1]
    assert numbers(await poll(log)) == [1], "whoever else has read meanwhile"


@pytest.mark.parametrize("turns", range(4))
async def test_what_is_taken_back_while_somebody_finds_nothing_comes_again(log: EventLog, turns: int) -> None:
    await log.append([event(1)])
    assert numbers(await poll(log)) == [1]
    finding = asyncio.create_task(poll(log))
    for _ in range(turns):
        await asyncio.sleep(0)
    await log.rewind(GROUP, [POSTS_CREATED])
    assert numbers(await finding) + numbers(await poll(log)) == [1]


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


async def appended_later(log: EventLog, *numbers: int) -> int:
    """Appends; the time, in a millisecond after all before and not after these."""
    before_ms = SystemClock().now_ms()
    await eventually(lambda: truth(SystemClock().now_ms() > before_ms), every_s=0.001)
    now_ms = SystemClock().now_ms()
    await log.append([event(n) for n in numbers])
    return now_ms


async def test_what_is_taken_back_comes_again_from_that_time_on(log: EventLog) -> None:
    await log.append([event(n) for n in range(3)])
    await log.append([event(99, PRIVACY)])
    from_ms = await appended_later(log, 3, 4)
    await log.commit(GROUP, await poll(log))
    await log.commit("others", await poll(log, group="others"))
    await log.rewind_to(GROUP, [POSTS_CREATED], from_ms)
    assert await log.lag(GROUP, [POSTS_CREATED]) == 2
    assert await log.lag("others", [POSTS_CREATED]) == 0
    records = await poll(log)
    assert numbers(records) == [3, 4]
    # Durably: who fails in between and goes back to what is committed does not skip the rest.
    await log.commit(GROUP, records[:1])
    await log.rewind(GROUP, [POSTS_CREATED])
    assert numbers(await poll(log)) == [4]
    await log.commit(GROUP, records)
    assert await log.lag(GROUP, [POSTS_CREATED]) == 0


async def test_taking_back_never_goes_forward(log: EventLog) -> None:
    await log.append([event(n) for n in range(3)])
    records = await poll(log)
    await log.commit(GROUP, records[:1])
    from_ms = await appended_later(log, 3)
    await log.rewind_to(GROUP, [POSTS_CREATED], from_ms)
    assert numbers(await poll(log)) == [1, 2, 3]
    await log.rewind_to(GROUP, [POSTS_CREATED], from_ms + 3_600_000)
    assert numbers(await poll(log)) == [1, 2, 3]
    assert await log.lag(GROUP, [POSTS_CREATED]) == 3


async def test_all_can_be_taken_back(log: EventLog) -> None:
    await log.append([event(n) for n in range(3)])
    await log.commit(GROUP, await poll(log))
    await log.rewind_to(GROUP, [POSTS_CREATED, POSTS_DELETED], 0)
    assert numbers(await poll(log)) == [0, 1, 2]


async def test_who_never_polled_takes_nothing_back(log: EventLog) -> None:
    await log.append([event(1)])
    await log.rewind_to(GROUP, [POSTS_CREATED], 0)
    assert numbers(await poll(log)) == [1]


async def test_what_was_taken_back_comes_after_a_restart_too(open_log: OpenLog) -> None:
    async with open_log() as log:
        await log.append([event(n) for n in range(3)])
        from_ms = await appended_later(log, 3, 4)
        await log.commit(GROUP, await poll(log))
        await log.rewind_to(GROUP, [POSTS_CREATED], from_ms)
    async with open_log() as restarted:
        assert numbers(await poll(restarted)) == [3, 4]


@pytest.mark.partitions(3)
async def test_each_partition_is_taken_back_by_who_reads_it(open_kafka: OpenKafka) -> None:
    async with open_kafka() as log:
        await log.append([event(n, key=n) for n in range(30)])
        before_ms = SystemClock().now_ms()
        await eventually(lambda: truth(SystemClock().now_ms() > before_ms), every_s=0.001)
        from_ms = SystemClock().now_ms()
        await log.append([event(n, key=n) for n in range(30, 60)])
        await log.commit(GROUP, await poll(log))
        await log.rewind_to(GROUP, [POSTS_CREATED], from_ms)
        assert sorted(numbers(await poll(log))) == list(range(30, 60))


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


@pytest.mark.partitions(3)
async def test_kafka_consumers_share_partitions_and_a_rebalance_loses_nothing(open_kafka: OpenKafka) -> None:
    handled: dict[str, list[Record]] = {"first": [], "second": []}
    stopping = {"first": asyncio.Event(), "second": asyncio.Event()}

    async def consume(name: str) -> None:
        async with open_kafka() as log:
            while not stopping[name].is_set():
                records = await log.poll(GROUP, [POSTS_CREATED], max_records=20, wait_s=0.1)
                await asyncio.sleep(0.01)
                handled[name] += records
                await log.commit(GROUP, records)

    async def all_handled(upto: int) -> bool:
        return {n for name in handled for n in numbers(handled[name])} >= set(range(upto))

    async with open_kafka() as writer, asyncio.TaskGroup() as tasks:
        tasks.create_task(consume("first"))
        for n in range(0, 300, 10):
            await writer.append([event(n + i, key=n + i) for i in range(10)])
        await eventually(lambda: all_handled(300), timeout_s=20)
        tasks.create_task(consume("second"))
        for n in range(300, 3000, 10):
            await writer.append([event(n + i, key=n + i) for i in range(10)])
            await asyncio.sleep(0.01)
        await eventually(lambda: all_handled(3000), timeout_s=20)
        # The first one ends while there is more to read: its partitions go to the second one.
        await writer.append([event(n, key=n) for n in range(3000, 3600)])
        stopping["first"].set()
        await eventually(lambda: all_handled(3600), timeout_s=30)
        stopping["second"].set()

        both = {record.partition for record in handled["first"]} | {record.partition for record in handled["second"]}
        assert both == {0, 1, 2}
        assert len(handled["second"]) > 300
        # Each one reads each of its partitions in order, but for what it repeats after it got it anew.
        assert sum(map(len, handled.values())) < 3600 + 200
        assert await writer.lag(GROUP, [POSTS_CREATED]) == 0


@pytest.mark.partitions(3)
async def test_kafka_consumers_know_their_shares(open_kafka: OpenKafka) -> None:
    async with open_kafka() as one, open_kafka() as two:

        async def shared() -> bool:
            await asyncio.gather(*(log.poll(GROUP, [POSTS_CREATED], max_records=1, wait_s=0.1) for log in (one, two)))
            shares = [await log.share(GROUP, [POSTS_CREATED]) for log in (one, two)]
            return sorted(shares) == [pytest.approx(1 / 3), pytest.approx(2 / 3)]

        await eventually(shared, timeout_s=20)


@pytest.mark.partitions(3)
async def test_kafka_keeps_the_order_of_a_key_over_partitions(open_kafka: OpenKafka) -> None:
    async with open_kafka() as log:
        await asyncio.gather(*(log.append([event(n * 100 + i, key=n) for i in range(20)]) for n in range(30)))
        records = await poll(log, most=600)
        assert len({record.partition for record in records}) == 3
        for n in range(30):
            assert [int(record.value) % 100 for record in records if record.key == n] == list(range(20))


async def test_kafka_polls_that_are_cancelled_leave_gaps_nowhere(open_kafka: OpenKafka) -> None:
    async with open_kafka() as log:
        seen: list[int] = []
        await log.append([event(n) for n in range(100)])
        for turn in range(400):
            if turn % 20 == 0:
                await log.append([event(100 + turn // 20)])
            polling = asyncio.create_task(log.poll(GROUP, [POSTS_CREATED], max_records=3, wait_s=0.05))
            await asyncio.sleep(turn % 7 * 0.0005)
            polling.cancel()
            (result,) = await asyncio.gather(polling, return_exceptions=True)
            if not isinstance(result, BaseException):
                seen += numbers(result)
        seen += numbers(await poll(log))
        assert seen == list(range(120))


async def test_kafka_commit_by_one_who_lost_the_partition_is_no_error(open_kafka: OpenKafka) -> None:
    async with open_kafka() as second:
        async with open_kafka() as first:
            await first.append([event(n) for n in range(4)])
            records = await poll(first)
            assert numbers(records) == [0, 1, 2, 3]
        assert numbers(await poll(second)) == [0, 1, 2, 3]
        await second.commit(GROUP, records[:3])
        async with open_kafka() as third:
            # It owns nothing: the group has one partition.
            await third.poll(GROUP, [POSTS_CREATED], max_records=1, wait_s=1.0)
            await third.commit(GROUP, records)
            assert await third.lag(GROUP, [POSTS_CREATED]) == 1
            # Nor does one that never read.
            await third.commit("strangers", records)
        await second.rewind(GROUP, [POSTS_CREATED])
        assert numbers(await poll(second)) == [3]


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"a stranger's key of text", b"?"), (None, b"?"), (b"", Random(1).randbytes(1_048_450))],
    ids=["another key", "no key", "as much as the topic takes"],
)
async def test_kafka_record_of_a_stranger_finds_room_among_the_dead_letters(
    open_kafka: OpenKafka, kafka: str, key: bytes | None, value: bytes
) -> None:
    """Whatever a topic took: a letter that is refused would hold up its group for ever."""
    async with open_kafka() as log:
        stranger = Producer({"bootstrap.servers": kafka, "message.max.bytes": 2_000_000})
        stranger.produce(log._prefix + POSTS_CREATED, value, key)
        assert await asyncio.to_thread(stranger.flush, 10.0) == 0
        (record,) = await poll(log)
        assert record.value == value
        for topic in (DEAD_LETTERS, RETRY_5S):
            letter = dead_letter(record, GROUP, Unavailable("WHATEVER", "?"), tries=1)
            await log.append([replace(letter, topic=topic)])
            (found,) = await poll(log, topic, group=topic)
            assert (found.value, found.key) == (value, record.key)
            assert found.headers[ERROR_CLASS] == "WHATEVER"
        stranger.close()


async def test_kafka_group_that_never_committed_lags_by_what_is_there(open_kafka: OpenKafka, kafka: str) -> None:
    async with open_kafka() as log:
        await log.append([event(n) for n in range(10)])
        assert await log.lag("nobody", [POSTS_CREATED]) == 10
        (record, *_) = await poll(log, group="somebody", most=1)
        await log.commit("somebody", [record])
        admin = AdminClient({"bootstrap.servers": kafka})
        oldest = TopicPartition(log._prefix + POSTS_CREATED, 0, 4)
        for deleted in admin.delete_records([oldest]).values():
            await asyncio.wrap_future(deleted)
        assert await log.lag("nobody", [POSTS_CREATED]) == 6
        assert await log.lag("somebody", [POSTS_CREATED]) == 6
        # Its committed offset is gone: the group goes on at the oldest record there is.
    async with open_kafka() as log:
        assert numbers(await poll(log, group="somebody")) == [4, 5, 6, 7, 8, 9]


async def test_kafka_member_is_kept_while_its_handler_is_slow(
    open_kafka: OpenKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_adapter, "KEEP_ALIVE_S", 0.3)
    async with open_kafka(max_poll_interval_ms=2_000) as slow, open_kafka(max_poll_interval_ms=2_000) as other:
        await slow.append([event(n) for n in range(5)])
        records = await poll(slow, most=2)
        loop = asyncio.get_running_loop()
        ends = loop.time() + 5
        stolen: list[Record] = []
        while loop.time() < ends:
            stolen += await other.poll(GROUP, [POSTS_CREATED], max_records=10, wait_s=0.2)
        assert stolen == []
        assert owned_by(slow, GROUP)
        await slow.commit(GROUP, records)
        assert numbers(await poll(slow)) == [2, 3, 4]
        await slow.append([event(5)])
        assert numbers(await poll(slow, wait_s=5)) == [5]
        assert await slow.lag(GROUP, [POSTS_CREATED]) == 4


class SteppingClock:
    now_ms_is = SystemClock().now_ms()

    def now_ms(self) -> Millis:
        return Millis(self.now_ms_is)

    def monotonic(self) -> float:
        return self.now_ms_is / 1_000


async def test_sql_log_forgets_what_its_topics_have_kept_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_log, "TRIMMED_AT_ONCE", 4)
    clock = SteppingClock()
    async with open_database("sqlite://", LOG_TABLES) as database:
        log = SqlEventLog(database, clock)
        await log.append([event(n) for n in range(10)] + [event(n, PRIVACY) for n in range(10, 13)])
        await log.commit(GROUP, await poll(log, most=3))
        clock.now_ms_is += 2 * DAY_MS
        await log.append([event(13)])
        assert numbers(await poll(log, PRIVACY, group="late")) == []
        assert numbers(await poll(log, group="late")) == [*range(10), 13]
        clock.now_ms_is += 6 * DAY_MS
        for n in range(14, 18):
            await log.append([event(n)])  # each trims a part
        assert numbers(await poll(log, group="new")) == [13, 14, 15, 16, 17]
        assert await log.lag(GROUP, [POSTS_CREATED]) == 5
        await log.rewind(GROUP, [POSTS_CREATED])
        assert numbers(await poll(log)) == [13, 14, 15, 16, 17]


async def test_kafka_member_that_fetches_nothing_is_replaced(
    open_kafka: OpenKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_adapter, "SILENT_S", 0.5)
    async with open_kafka() as log:
        await log.append([event(1)])
        await log.commit(GROUP, await poll(log))
        (member,) = log._members_of(GROUP)
        stuck = member._consumer
        assert stuck is not None
        # As it was seen: it owns its places, answers, and fetches nothing.
        await member._call(lambda: stuck.pause([TopicPartition(*place) for place in member._owned]))
        await log.append([event(2), event(3)])

        async def goes_on() -> list[int]:
            return numbers(await log.poll(GROUP, [POSTS_CREATED], max_records=10, wait_s=0.2))

        assert await eventually(goes_on, timeout_s=20) == [2, 3]
        assert member._consumer is not stuck


async def test_kafka_member_that_was_given_no_place_while_its_group_is_behind_is_replaced_ever_more_seldom(
    open_kafka: OpenKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_adapter, "SILENT_S", 0.4)
    monkeypatch.setattr(kafka_adapter, "PLACELESS_SILENT_S", 1.2)
    async with open_kafka() as log, open_kafka() as hog:
        await log.append([event(1)])
        assert numbers(await poll(hog)) == [1]  # all there is, and it is not committed
        assert not await log.poll(GROUP, [POSTS_CREATED], max_records=10, wait_s=0.1)
        (member,) = log._members_of(GROUP)
        assert not member._owned
        seen = [member._consumer]
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() < began + 8:
            await log.poll(GROUP, [POSTS_CREATED], max_records=10, wait_s=0.1)
            await hog.poll(GROUP, [POSTS_CREATED], max_records=10, wait_s=0.1)
            if member._consumer is not None and member._consumer is not seen[-1]:
                seen.append(member._consumer)
        assert 2 <= len(seen) <= 5  # every 0.8 s it would be 10
        assert member._patience_s == 1.2
    async with open_kafka() as log:
        assert numbers(await poll(log)) == [1]


async def test_kafka_member_that_has_nothing_to_read_is_left_alone(
    open_kafka: OpenKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_adapter, "SILENT_S", 0.2)
    async with open_kafka() as log:
        await log.append([event(1)])
        assert numbers(await poll(log)) == [1]  # and not committed
        (member,) = log._members_of(GROUP)
        before = member._consumer
        for _ in range(10):
            assert await log.poll(GROUP, [POSTS_CREATED], max_records=10, wait_s=0.2) == []
        assert member._consumer is before


async def test_kafka_full_queue_refuses_and_never_blocks() -> None:
    async with kafka_log("127.0.0.1:1", SystemClock(), delivery_timeout_s=1.0, max_queued=100) as log:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(Unavailable) as refused:
            await log.append([event(n) for n in range(200)])
        assert refused.value.metadata == {"cause": "QUEUE_FULL"}
        assert loop.time() - began < 0.2

        async def times_out() -> bool:
            # What filled the queue leaves it when librdkafka next looks at ages, about once a second.
            with pytest.raises(Unavailable) as timed_out:
                await log.append([event(n) for n in range(50)])
            return timed_out.value.metadata == {"cause": "_MSG_TIMED_OUT"}

        async with longest_pause() as pause:
            await eventually(times_out, timeout_s=8)
        assert pause() < 0.2


async def test_kafka_that_is_away_is_unavailable_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_adapter, "ANSWER_WITHIN_S", 1.0)
    loop = asyncio.get_running_loop()
    before = set(threading.enumerate())
    async with kafka_log("127.0.0.1:1", SystemClock()) as log, longest_pause() as pause:
        began = loop.time()
        assert await log.poll(GROUP, [POSTS_CREATED], max_records=1, wait_s=0.3) == []
        with pytest.raises(Unavailable):
            await log.lag(GROUP, [POSTS_CREATED])
        appending = asyncio.create_task(log.append([event(1)]))
        await asyncio.sleep(0.1)
        assert loop.time() - began < 3
    assert pause() < 0.2
    assert loop.time() - began < 8
    with pytest.raises(Unavailable):
        await appending
    assert not [thread for thread in set(threading.enumerate()) - before if "asyncio" not in thread.name]


async def test_kafka_killed_while_appending_keeps_what_it_acknowledged(
    kafka_broker: KafkaBroker, kafkas: Kafkas
) -> None:
    await kafkas.call_from_loop(make_topics(kafka_broker.servers, "", 3))
    acknowledged: list[int] = []
    refused = 0
    stop = asyncio.Event()

    async def append(log: EventLog, writer: int) -> None:
        nonlocal refused
        n = writer * 100_000
        while not stop.is_set():
            n += 1
            try:
                await log.append([event(n, key=writer)])
                acknowledged.append(n)
            except Unavailable:
                refused += 1
                await asyncio.sleep(0.05)

    async with (
        kafka_log(kafka_broker.servers, SystemClock(), delivery_timeout_s=2.0) as log,
        asyncio.TaskGroup() as tasks,
    ):
        reader = tasks.create_task(read_until(log, stop))
        for writer in range(4):
            tasks.create_task(append(log, writer))
        for _ in range(2):
            before = len(acknowledged)
            await eventually(lambda: truth(len(acknowledged) > before + 50), timeout_s=20)  # noqa: B023 - awaited here
            await kafka_broker.kill()
            await asyncio.sleep(3)
            await kafka_broker.start()
        before = len(acknowledged)
        await eventually(lambda: truth(len(acknowledged) > before + 50), timeout_s=20)
        await eventually(lambda: truth(refused > 0))
        stop.set()
        # The one that read all along goes on by itself after each return of the broker.
        seen = await reader
        missing = set(acknowledged) - set(seen)
        seen += numbers(await poll(log, most=1_000_000))
        missing = set(acknowledged) - set(seen)
        assert not missing
        for writer in range(4):
            of_writer = list(dict.fromkeys(n for n in seen if n // 100_000 == writer))
            assert of_writer == sorted(of_writer)


async def test_kafka_commit_waits_a_bounded_time_for_a_broker_that_is_away(
    kafka_broker: KafkaBroker, kafkas: Kafkas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_adapter, "ANSWER_WITHIN_S", 1.0)
    await kafkas.call_from_loop(make_topics(kafka_broker.servers, "", 1))
    loop = asyncio.get_running_loop()
    async with kafka_log(kafka_broker.servers, SystemClock()) as log:
        await log.append([event(n) for n in range(5)])
        records = await poll(log, most=2)
        await log.commit(GROUP, records[:1])
        await kafka_broker.kill()
        began = loop.time()
        with pytest.raises(Unavailable):
            await log.commit(GROUP, records)
        assert await log.poll(GROUP, ["posts.deleted"], max_records=5, wait_s=0.2) == []
        assert loop.time() - began < 4
        await kafka_broker.start()

        async def committed() -> bool:
            try:
                await log.commit(GROUP, records)
            except Unavailable:
                return False
            return True

        await eventually(committed, timeout_s=20)
        monkeypatch.setattr(kafka_adapter, "ANSWER_WITHIN_S", 5.0)
        assert await log.lag(GROUP, [POSTS_CREATED]) == 3
        await log.rewind(GROUP, [POSTS_CREATED])
        assert numbers(await poll(log)) == [2, 3, 4]


async def test_kafka_topics_are_made_and_mended(kafkas: Kafkas, kafka: str) -> None:
    async def plan(*topics: TopicSpec) -> list[tuple[Remedy, str]]:
        return [(one.remedy, str(one)) for one in await plan_topics(kafka, topics=topics)]

    name = f"t{next(TESTS)}.topic"
    small = TopicSpec(name=name, partitions=2, retention_ms=1_000_000)
    assert await plan(small) == [(Remedy.CREATE, f"{name} is missing: 2 partitions, replication 1")]
    assert [one.remedy for one in await apply_topics(kafka, topics=[small])] == [Remedy.CREATE]
    assert await plan(small) == []
    large = TopicSpec(name=name, partitions=4, retention_ms=None)
    (left, text), (altered, why) = await plan(large)
    assert left is Remedy.LEAVE
    assert "has 2 partitions, wants 4: keys would move" in text
    assert altered is Remedy.ALTER
    assert why == f"{name} has retention.ms 1000000 instead of -1"
    await apply_topics(kafka, topics=[large])
    assert [remedy for remedy, _ in await plan(large)] == [Remedy.LEAVE]
    # The session's fixture made those of feedmesh.
    assert await plan_topics(kafka) == []


async def test_kafka_topics_say_when_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics_adapter, "ANSWER_WITHIN_S", 0.5)
    with pytest.raises(Unavailable):
        await plan_topics("127.0.0.1:1")


async def read_until(log: EventLog, stop: asyncio.Event) -> list[int]:
    seen: list[int] = []
    while not stop.is_set():
        try:
            records = await log.poll(GROUP, [POSTS_CREATED], max_records=50, wait_s=0.2)
            seen += numbers(records)  # the effect comes first: a commit whose answer is lost may have been made
            await log.commit(GROUP, records)
        except Unavailable:
            await log_rewound(log)
    return seen


async def log_rewound(log: EventLog) -> None:
    """As a consumer does when it could not commit."""
    while True:
        try:
            await log.rewind(GROUP, [POSTS_CREATED])
        except Unavailable:
            await asyncio.sleep(0.1)
        else:
            return


async def truth(value: bool) -> bool:
    return value


@asynccontextmanager
async def longest_pause() -> AsyncIterator[Callable[[], float]]:
    """The longest time in seconds that the loop did not turn."""
    loop = asyncio.get_running_loop()
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = loop.time()
            await asyncio.sleep(0.01)
            longest = max(longest, loop.time() - began - 0.01)

    watching = asyncio.create_task(watch())
    yield lambda: longest
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_tail_learns_all_of_the_last_while_at_every_start(open_log: OpenLog) -> None:
    def told(n: int) -> Event:
        return Event(PRIVACY, 1, encode(PostDeleted(post_id=n, author_id=1), event_id=n, version=n))

    async def learned(log: EventLog, *, more: int = 0) -> list[int]:
        heard: list[int] = []
        tail = Tail(
            log,
            group="feed.privacy.0",
            topics=[PRIVACY],
            learn=lambda batch: heard.extend(envelope.post_deleted.post_id for _, envelope in batch),
            clock=SystemClock(),
            back_s=60,
        )
        async with tail.running():
            assert await tail.caught_up(timeout_s=20)
            there = list(heard)
            if more:
                await log.append([told(more)])
                await eventually(lambda: truth(more in heard))
        return there

    async with open_log() as log:
        assert await learned(log) == []
        await log.append([told(1), Event(PRIVACY, 1, b"\xff no envelope"), told(2)])
    for _ in range(2):
        async with open_log() as log:
            assert (await learned(log, more=3))[:2] == [1, 2]
