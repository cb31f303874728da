"""At least once: a record is done when its effect is, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from feedmesh.events.v1.post_events_pb2 import PostDeleted
from sqlalchemy import text

from foundation.errors import DeadlineExceeded, Exhausted, InvalidArgument, Unavailable
from foundation.events import consumer as module
from foundation.events.consumer import Batch, Consumer
from foundation.events.envelope import encode
from foundation.events.port import DEAD_LETTERS, POSTS_DELETED, PRIVACY, RETRY_10M, Event, Record
from foundation.events.sql_log import LOG_TABLES, SqlEventLog
from foundation.model.clock import Millis, SystemClock
from foundation.sql.database import Database, open_database
from tests.kit.eventually import eventually

GROUP = "cleaners"
TOPICS = [POSTS_DELETED, PRIVACY]


class LateClock(SystemClock):
    """The machine's clocks, put forward by a test."""

    late_s = 0

    def now_ms(self) -> Millis:
        return Millis(super().now_ms() + self.late_s * 1_000)

    def monotonic(self) -> float:
        return super().monotonic() + self.late_s


@dataclass
class World:
    """A log, one group's consumer of it, and what that consumer's handler saw."""

    database: Database
    log: SqlEventLog
    clock: LateClock
    batches: list[list[int]] = field(default_factory=list)

    @property
    def seen(self) -> list[int]:
        return [n for batch in self.batches for n in batch]

    async def append(self, *numbers: int, topic: str = POSTS_DELETED) -> None:
        await self.log.append([deleted(n, topic) for n in numbers])

    def consumer(
        self, answer: Callable[[list[int]], object] = len, *, max_records: int = 500, topics: Sequence[str] = TOPICS
    ) -> Consumer:
        async def handle(batch: Batch) -> None:
            numbers = [envelope.post_deleted.post_id for _, envelope in batch]
            self.batches.append(numbers)
            result = answer(numbers)
            if asyncio.iscoroutine(result):
                await result

        return Consumer(self.log, group=GROUP, topics=topics, handle=handle, clock=self.clock, max_records=max_records)

    async def lag(self) -> int:
        return await self.log.lag(GROUP, TOPICS)

    async def dead_letters(self) -> list[Record]:
        await self.log.rewind("looking", [DEAD_LETTERS])
        return list(await self.log.poll("looking", [DEAD_LETTERS], max_records=1_000, wait_s=0))


def deleted(n: int, topic: str = POSTS_DELETED) -> Event:
    return Event(topic, n, encode(PostDeleted(post_id=n), event_id=n, version=1), {"trace": f"t{n}"})


async def world_has_batches(world: World) -> bool:
    return bool(world.batches)


async def world_saw(world: World, numbers: list[int]) -> bool:
    return world.seen == numbers


@asynccontextmanager
async def open_world(path: Path) -> AsyncIterator[World]:
    async with open_database(f"sqlite:///{path}/log.db", LOG_TABLES) as database:
        clock = LateClock()
        yield World(database, SqlEventLog(database, clock), clock)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (0.005, 0.01))


async def test_records_are_handled_in_order_and_then_done(world: World) -> None:
    await world.append(*range(10))
    await world.append(10, topic=PRIVACY)
    async with world.consumer(max_records=4).running() as consumer:
        await eventually(consumer.drained)
        assert world.seen == list(range(11))
        assert max(len(batch) for batch in world.batches) == 4
        await world.append(11)
        assert not await consumer.drained() or world.seen[-1] == 11
        await eventually(consumer.drained)
    assert world.seen == list(range(12))
    assert await world.dead_letters() == []


async def test_nothing_is_committed_before_its_effect(world: World) -> None:
    lags = []

    async def look(_: object) -> None:
        lags.append(await world.lag())

    await world.append(1, 2, 3)
    async with world.consumer(look).running() as consumer:
        await eventually(consumer.drained)
    assert lags == [3]


async def test_a_crash_between_effect_and_commit_repeats_the_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_WITHIN_S", 0.05)
    async with open_world(tmp_path) as world:
        await world.append(1, 2, 3)
        async with world.consumer(lambda _: asyncio.sleep(60)).running():
            await eventually(lambda: world_has_batches(world))
        assert world.batches == [[1, 2, 3]]
    async with open_world(tmp_path) as restarted:
        async with restarted.consumer().running() as consumer:
            await eventually(consumer.drained)
        assert restarted.seen == [1, 2, 3]


async def test_the_next_consumer_of_this_process_goes_on_where_the_last_one_was_cut(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_WITHIN_S", 0.05)
    await world.append(1, 2, 3)
    async with world.consumer(lambda _: asyncio.sleep(60)).running():
        await eventually(lambda: world_has_batches(world))
    world.batches.clear()
    async with world.consumer().running() as consumer:
        await eventually(consumer.drained)
    assert world.seen == [1, 2, 3]


async def test_small_batches_share_a_commit_and_none_is_left_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.append(*range(60))
    commit, commits = world.log.commit, 0

    async def counting(group: str, records: Sequence[Record]) -> None:
        nonlocal commits
        commits += 1
        await commit(group, records)

    monkeypatch.setattr(world.log, "commit", counting)
    monkeypatch.setattr(module, "COMMIT_EVERY_S", 0.2)
    async with world.consumer(max_records=1).running() as consumer:
        await eventually(consumer.drained)
        assert world.seen == [*range(60)]
        assert commits < 30
        before = commits
        await world.append(60)
        await eventually(lambda: world_saw(world, [*range(61)]))
    # Stopped before it was due.
    assert commits > before
    assert await world.lag() == 0


async def test_stopping_finishes_and_commits_the_batch_in_hand(world: World) -> None:
    finished = []

    async def slowly(numbers: list[int]) -> None:
        await asyncio.sleep(0.2)
        finished.append(numbers)

    await world.append(1, 2)
    running = asyncio.create_task(world.consumer(slowly).run())
    await eventually(lambda: world_has_batches(world))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert finished == [[1, 2]]
    assert await world.lag() == 0


async def test_stopping_does_not_wait_for_records(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 60.0)
    async with asyncio.timeout(1.5), world.consumer().running():
        await asyncio.sleep(0.1)


async def test_stopping_does_not_wait_for_a_dependency(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (60.0,))

    def answer(_: object) -> None:
        raise Unavailable("AWAY")

    await world.append(1)
    async with asyncio.timeout(1.5), world.consumer(answer).running():
        await eventually(lambda: world_has_batches(world))
    assert await world.lag() == 1
    assert await world.dead_letters() == []


@pytest.mark.parametrize("away", [Unavailable("AWAY"), DeadlineExceeded("SLOW"), Exhausted("OVERLOADED")])
async def test_a_dependency_that_is_away_is_waited_for(world: World, away: Exception) -> None:
    def answer(_: object) -> None:
        if len(world.batches) < 12:
            raise away

    await world.append(1, 2)
    async with world.consumer(answer).running() as consumer:
        await eventually(consumer.drained)
    assert world.batches == [[1, 2]] * 12
    assert await world.dead_letters() == []


async def test_what_cannot_be_decoded_goes_to_the_dead_letters_and_the_rest_on(world: World) -> None:
    broken = Event(POSTS_DELETED, 77, b"\xff\xff", {"trace": "tx"})
    await world.log.append([deleted(1), broken, deleted(2)])
    async with world.consumer().running() as consumer:
        await eventually(consumer.drained)
    assert world.seen == [1, 2]
    (letter,) = await world.dead_letters()
    assert (letter.key, letter.value) == (77, b"\xff\xff")
    (original,) = [
        record
        for record in await world.log.poll("any", [POSTS_DELETED], max_records=10, wait_s=0)
        if record.value == b"\xff\xff"
    ]
    expected = {
        "trace": "tx",
        "x-orig-topic": POSTS_DELETED,
        "x-orig-partition": "0",
        "x-orig-offset": str(original.offset),
        "x-orig-timestamp": str(original.timestamp_ms),
        "x-group": GROUP,
        "x-error-class": "EVENT_MALFORMED",
        "x-attempts": "1",
    }
    assert expected.items() <= letter.headers.items()


async def test_a_batch_of_nothing_but_undecodable_records_is_done(world: World) -> None:
    await world.log.append([Event(POSTS_DELETED, 1, b"\xff")])
    async with world.consumer().running() as consumer:
        await eventually(consumer.drained)
    assert world.batches == []
    assert len(await world.dead_letters()) == 1


@pytest.mark.parametrize(
    ("defect", "reason"), [(ZeroDivisionError(), "ZeroDivisionError"), (InvalidArgument("POST_BAD"), "POST_BAD")]
)
async def test_a_poisonous_record_is_tried_three_times_and_then_buried(
    world: World, defect: Exception, reason: str
) -> None:
    handled: set[int] = set()

    def answer(numbers: list[int]) -> None:
        if 2 in numbers:
            raise defect
        handled.update(numbers)

    await world.append(1, 2, 3)
    async with world.consumer(answer).running() as consumer:
        await eventually(consumer.drained)
        await world.append(4)
        await eventually(consumer.drained)
    assert handled == {1, 3, 4}
    assert world.batches == [[1, 2, 3], [1], [2], [2], [2], [3], [4]]
    (letter,) = await world.dead_letters()
    assert (letter.key, letter.headers["x-error-class"], letter.headers["x-attempts"]) == (2, reason, "3")
    assert letter.value == deleted(2).value


async def test_a_record_that_succeeds_in_the_end_is_not_buried(world: World) -> None:
    def answer(numbers: list[int]) -> None:
        if 2 in numbers and world.batches.count([2]) < 3:
            raise ZeroDivisionError

    await world.append(1, 2, 3)
    async with world.consumer(answer).running() as consumer:
        await eventually(consumer.drained)
    assert await world.dead_letters() == []


async def test_an_outage_while_looking_for_the_poisonous_one_buries_nobody(world: World) -> None:
    def answer(numbers: list[int]) -> None:
        if len(numbers) > 1:
            raise ZeroDivisionError
        if world.batches.count(numbers) < 8:
            raise Unavailable("AWAY")

    await world.append(1, 2)
    async with world.consumer(answer).running() as consumer:
        await eventually(consumer.drained)
    assert await world.dead_letters() == []


async def test_a_record_is_not_done_before_its_dead_letter_is_safe(world: World) -> None:
    refuse = (
        "create trigger refuse before insert on records when new.topic = 'dlq' begin select raise(abort, 'full'); end"
    )
    await world.append(1)
    await world.log.append([Event(POSTS_DELETED, 2, b"\xff")])
    await world.database.write(lambda c: c.execute(text(refuse)) and None)
    async with world.consumer().running() as consumer:
        await asyncio.sleep(0.1)
        assert await world.lag() == 2
        await world.database.write(lambda c: c.execute(text("drop trigger refuse")) and None)
        await eventually(consumer.drained)
    assert [letter.key for letter in await world.dead_letters()] == [2]
    assert 1 in world.seen


async def test_a_log_that_goes_away_is_waited_for(world: World) -> None:
    await world.append(1)
    async with world.consumer().running() as consumer:
        await eventually(consumer.drained)
        await world.database.write(lambda c: c.execute(text("alter table records rename to elsewhere")) and None)
        await asyncio.sleep(0.1)
        await world.database.write(lambda c: c.execute(text("alter table elsewhere rename to records")) and None)
        await world.append(2)
        await eventually(consumer.drained)
    assert world.seen == [1, 2]


async def test_a_handler_that_is_cancelled_from_elsewhere_is_called_again(world: World) -> None:
    def answer(_: object) -> None:
        if len(world.batches) < 3:
            raise asyncio.CancelledError

    await world.append(1)
    async with world.consumer(answer).running() as consumer:
        await eventually(consumer.drained)
    assert world.batches == [[1]] * 3


# What took effect is done again


async def repeated(world: World, consumer: Consumer, expected: list[int]) -> None:
    consumer.repeat_recent()

    async def done() -> bool:
        return world.seen == expected and await consumer.drained()

    await eventually(done)


async def test_what_took_effect_lately_is_done_again(world: World) -> None:
    await world.append(1, 2)
    async with world.consumer().running() as consumer:
        await eventually(consumer.drained)
        await repeated(world, consumer, [1, 2, 1, 2])
        await world.append(3)
        await eventually(consumer.drained)
        assert world.seen == [1, 2, 1, 2, 3]


async def test_what_took_effect_long_ago_is_left_alone(world: World) -> None:
    await world.append(1)
    async with world.consumer().running() as consumer:
        await eventually(consumer.drained)
        world.clock.late_s += 200
        await world.append(2)
        await eventually(consumer.drained)
        await repeated(world, consumer, [1, 2, 2])


async def test_what_waited_for_long_before_it_took_effect_is_done_again(world: World) -> None:
    await world.append(1)
    world.clock.late_s += 200
    async with world.consumer().running() as consumer:
        await eventually(consumer.drained)
        await repeated(world, consumer, [1, 1])


async def test_the_batch_in_hand_is_finished_and_done_again(world: World) -> None:
    goes_on = asyncio.Event()
    await world.append(1)
    world.clock.late_s += 200
    async with world.consumer(lambda _: goes_on.wait()).running() as consumer:
        await eventually(lambda: world_has_batches(world))
        consumer.repeat_recent()
        consumer.repeat_recent()
        assert world.seen == [1]
        goes_on.set()

        async def done() -> bool:
            return world.seen == [1, 1] and await consumer.drained()

        await eventually(done)


async def test_a_repetition_whose_log_fails_halfway_skips_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.append(1, 2, 3, 4)
    async with world.consumer(max_records=2).running() as consumer:
        await eventually(consumer.drained)
        commit = world.log.commit

        async def failing(group: str, records: list[Record]) -> None:
            monkeypatch.setattr(world.log, "commit", commit)
            raise Unavailable("LOG_UNAVAILABLE")

        monkeypatch.setattr(world.log, "commit", failing)
        await repeated(world, consumer, [1, 2, 3, 4, 1, 2, 1, 2, 3, 4])


async def test_what_is_not_due_yet_holds_up_no_repetition(world: World) -> None:
    await world.append(1)
    async with world.consumer(topics=[*TOPICS, RETRY_10M]).running() as consumer:
        await eventually(consumer.drained)
        await world.append(2, topic=RETRY_10M)
        waiting = asyncio.Event()
        until = consumer._until

        async def told(ms: int) -> bool:
            waiting.set()
            return await until(ms)

        consumer._until = told  # type: ignore[method-assign]
        await waiting.wait()
        consumer.repeat_recent()
        await eventually(lambda: world_saw(world, [1, 1]))
        world.clock.late_s += 600
        await eventually(consumer.drained)
        assert world.seen == [1, 1, 2]
