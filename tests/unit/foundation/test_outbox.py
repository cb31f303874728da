"""What was stored is published, whatever dies in between: duplicates are allowed, losses are not."""

from __future__ import annotations

import asyncio
import math
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from sqlalchemy import BigInteger, Column, Connection, Index, MetaData, Table, insert, select, text

from foundation.errors import DeadlineExceeded, Unavailable
from foundation.events import outbox as module
from foundation.events.outbox import Publisher, SlotKey, slot_key
from foundation.events.port import POSTS_CREATED, POSTS_DELETED, PRIVACY, Event
from foundation.events.sql_log import LOG_TABLES, SqlEventLog
from foundation.events.sql_outbox import (
    SqlOutbox,
    event_columns,
    events_of,
    insert_or_ignore,
    open_slots_table,
    topics_text,
)
from foundation.events.unpublished import Unpublished, unpublished
from foundation.model.clock import Millis
from foundation.model.ids import EPOCH_MS, SLOT_MS, Snowflakes
from foundation.sql.database import Database, open_database
from tests.kit.eventually import eventually

TABLES = MetaData()
POSTS, CHANGES = (
    Table(
        name,
        TABLES,
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        *event_columns(),
        Index(f"{name}_slots", "slot", "worker"),
    )
    for name in ("posts", "changes")
)
OPEN_SLOTS = open_slots_table(TABLES)
CLOSED_MS = 4 * SLOT_MS
NOTHING = Unpublished(events=0, slots=0)


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.ms = EPOCH_MS + 50 * SLOT_MS + 3_000

    def now_ms(self) -> Millis:
        return Millis(self.ms)

    def monotonic(self) -> float:
        return self.ms / 1000


@dataclass
class Life:
    """One life of a process: it stores rows, and publishes their events."""

    clock: HandClock
    store: Database
    log_store: Database
    log: SqlEventLog
    outbox: SqlOutbox
    ids: Snowflakes
    publisher: Publisher

    def row(self, id_: int, table: Table = POSTS, topics: str = POSTS_CREATED) -> Callable[[Connection], None]:
        """A work that stores the row with its slot."""

        def work(connection: Connection) -> None:
            key = slot_key(id_)
            place = {"slot": key.slot, "worker": key.worker}
            values = {"id": id_, **place, "event_topics": topics, "event_key": id_ % 97, "event_value": b"%d" % id_}
            connection.execute(insert(table).values(**values))
            insert_or_ignore(connection, OPEN_SLOTS, [place])

        return work

    async def write(self, id_: int, table: Table = POSTS, topics: str = POSTS_CREATED) -> list[Event]:
        """Store a row; its events are yet to be published."""
        with self.publisher.writing(id_):
            await self.store.write(self.row(id_, table, topics))
        return events_of(topics, id_ % 97, b"%d" % id_)

    async def create(self) -> int:
        """Store and publish."""
        id_ = self.ids.next()
        self.publisher.publish(id_, await self.write(id_))
        return id_

    async def create_with_unknown_outcome(self) -> int:
        """The write takes effect after its writer has given up."""
        id_ = self.ids.next()
        work = self.row(id_)
        given_up = threading.Event()

        def slowly(connection: Connection) -> None:
            assert given_up.wait(10)
            work(connection)

        with pytest.raises(DeadlineExceeded), self.publisher.writing(id_):
            await self.store.write(slowly, timeout_s=0.005)
        given_up.set()
        await eventually(lambda: self.is_stored(id_))
        return id_

    async def is_stored(self, id_: int) -> bool:
        return await self.store.read(lambda c: c.execute(select(POSTS).where(POSTS.c.id == id_)).first() is not None)

    async def published(self) -> Counter[int]:
        """How often the event of each id is in the log."""
        topics = [POSTS_CREATED, POSTS_DELETED, PRIVACY]
        await self.log.rewind("looking", topics)
        return Counter(
            int(record.value) for record in await self.log.poll("looking", topics, max_records=10_000, wait_s=0)
        )

    async def unmarked(self) -> list[SlotKey]:
        return list(await self.outbox.unmarked(before_slot=2**40, limit=1_000))

    async def hide_the_log(self) -> None:
        await self.log_store.write(lambda c: c.execute(text("alter table records rename to elsewhere")) and None)

    async def show_the_log(self) -> None:
        await self.log_store.write(lambda c: c.execute(text("alter table elsewhere rename to records")) and None)


@asynccontextmanager
async def live(path: Path, clock: HandClock, *, worker: int = 1) -> AsyncIterator[Life]:
    """A new process on the files of *path*; its background tasks run only inside `publisher.running()`."""
    async with (
        open_database(f"sqlite:///{path}/store.db", TABLES) as store,
        open_database(f"sqlite:///{path}/log.db", LOG_TABLES) as log_store,
    ):
        log = SqlEventLog(log_store, clock)
        outbox = SqlOutbox(store, OPEN_SLOTS, [POSTS, CHANGES])
        ids = Snowflakes(clock, worker=worker)
        publisher = Publisher(log, outbox, clock, service="a_svc", worker=worker, sweep_every_s=0.05)
        yield Life(clock, store, log_store, log, outbox, ids, publisher)


@asynccontextmanager
async def publishing(life: Life) -> AsyncIterator[None]:
    """Publishes, and sweeps only where the test says so."""
    task = asyncio.create_task(life.publisher._publish_forever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def life(tmp_path: Path, clock: HandClock) -> AsyncIterator[Life]:
    """A process that took over already."""
    async with live(tmp_path, clock) as started:
        assert await started.publisher.sweep() == 0
        yield started


async def test_a_row_is_published_right_after_its_write(life: Life) -> None:
    async with life.publisher.running():
        id_ = await life.create()
        await life.publisher.flush()
        assert await life.published() == {id_: 1}


async def test_a_slot_that_went_well_is_marked_without_publishing_again(life: Life) -> None:
    async with life.publisher.running():
        ids = [await life.create() for _ in range(5)]
        await life.publisher.flush()
    assert len(await life.unmarked()) == 1
    life.clock.ms += CLOSED_MS
    assert await life.publisher.sweep() == 0
    assert await life.unmarked() == []
    assert await life.published() == dict.fromkeys(ids, 1)


async def test_a_slot_that_may_take_more_rows_is_left_alone(life: Life) -> None:
    id_ = life.ids.next()
    await life.write(id_)
    for _ in range(2):
        life.clock.ms += SLOT_MS
        assert await life.publisher.sweep() == 0
    assert await life.unmarked() == [slot_key(id_)]


async def test_a_crash_between_row_and_publish_is_repaired_at_the_next_start(tmp_path: Path, clock: HandClock) -> None:
    async with live(tmp_path, clock) as first:
        await first.publisher.sweep()
        ids = [first.ids.next() for _ in range(3)]
        for id_ in ids:
            await first.write(id_)
    clock.ms += 5
    async with live(tmp_path, clock) as second:
        assert await second.published() == {}
        assert await second.publisher.sweep() == 1
        assert await second.published() == dict.fromkeys(ids, 1)
        # The second life may still write into this slot.
        assert await second.unmarked() == [slot_key(ids[0])]


async def test_a_start_during_an_outage_forgets_nothing(tmp_path: Path, clock: HandClock) -> None:
    async with live(tmp_path, clock) as first:
        lost = first.ids.next()
        await first.write(lost)
    clock.ms += 5
    async with live(tmp_path, clock) as second:
        await second.hide_the_log()
        with pytest.raises(Unavailable):
            await second.publisher.sweep()
        await second.show_the_log()
        async with second.publisher.running():
            mine = await second.create()
            await second.publisher.flush()
        clock.ms += CLOSED_MS
        await second.publisher.sweep()
        assert set(await second.published()) == {lost, mine}
        assert await second.unmarked() == []


async def test_a_slot_shared_by_two_lives_is_not_marked_on_the_word_of_the_second(
    tmp_path: Path, clock: HandClock
) -> None:
    async with live(tmp_path, clock) as first:
        await first.publisher.sweep()
        lost = first.ids.next()
        await first.write(lost)
    clock.ms += 5
    async with live(tmp_path, clock) as second, second.publisher.running():
        mine = await second.create()
        await second.publisher.flush()
        clock.ms += CLOSED_MS
        await eventually(lambda: _is_marked(second))
        published = await second.published()
    assert slot_key(lost) == slot_key(mine)
    assert published[lost]
    assert published[mine]


async def test_a_crash_after_the_publish_repeats_it(tmp_path: Path, clock: HandClock) -> None:
    async with live(tmp_path, clock) as first, first.publisher.running():
        id_ = await first.create()
    clock.ms += SLOT_MS
    async with live(tmp_path, clock) as second:
        assert await second.publisher.sweep() == 1
        assert await second.published() == {id_: 2}
        assert await second.unmarked() == []


async def test_what_a_vanished_worker_left_is_published_by_another_once_closed(
    tmp_path: Path, clock: HandClock
) -> None:
    async with live(tmp_path, clock, worker=1) as vanished:
        id_ = vanished.ids.next()
        await vanished.write(id_)
    async with live(tmp_path, clock, worker=2) as other:
        assert await other.publisher.sweep() == 0
        async with other.publisher.running():
            mine = await other.create()
            await other.publisher.flush()
        clock.ms += CLOSED_MS
        assert await other.publisher.sweep() == 1
        assert await other.published() == {id_: 1, mine: 1}
        assert await other.unmarked() == []


async def test_a_clock_that_stepped_back_hides_nothing(tmp_path: Path, clock: HandClock) -> None:
    clock.ms += 100 * SLOT_MS
    async with live(tmp_path, clock) as first:
        id_ = first.ids.next()
        await first.write(id_)
    clock.ms -= 100 * SLOT_MS
    async with live(tmp_path, clock) as second:
        assert await second.publisher.sweep() == 1
        assert await second.published() == {id_: 1}


async def test_a_slot_with_a_write_of_unknown_outcome_is_published_again_before_its_mark(life: Life) -> None:
    async with life.publisher.running():
        good = await life.create()
        unknown = await life.create_with_unknown_outcome()
        await life.publisher.flush()
    assert await life.published() == {good: 1}
    life.clock.ms += CLOSED_MS
    assert await life.publisher.sweep() == 1
    assert await life.published() == {good: 2, unknown: 1}
    assert await life.unmarked() == []


async def test_a_cancelled_write_is_published_again_before_the_mark(life: Life) -> None:
    id_ = life.ids.next()
    work = life.row(id_)
    begun, given_up = threading.Event(), threading.Event()

    def slowly(connection: Connection) -> None:
        begun.set()
        assert given_up.wait(10)
        work(connection)

    async def write() -> None:
        with life.publisher.writing(id_):
            await life.store.write(slowly)

    async with life.publisher.running():
        await life.create()
        writing = asyncio.create_task(write())
        assert await asyncio.to_thread(begun.wait, 10)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        given_up.set()
        await life.publisher.flush()
    await eventually(lambda: life.is_stored(id_))
    life.clock.ms += CLOSED_MS
    await life.publisher.sweep()
    assert (await life.published())[id_] == 1


async def test_a_slot_is_not_marked_while_a_write_into_it_is_in_flight(life: Life) -> None:
    async with life.publisher.running():
        await life.create()
        await life.publisher.flush()
    late = life.ids.next()
    with life.publisher.writing(late):
        life.clock.ms += CLOSED_MS
        await life.publisher.sweep()
        assert await life.unmarked() == [slot_key(late)]
        await life.store.write(life.row(late))
    # Its process dies here, before it published.
    assert await life.publisher.sweep() == 1
    assert (await life.published())[late] == 1


async def test_an_unknown_outcome_is_remembered_through_a_sweep_during_the_write(life: Life) -> None:
    slow, quick = life.ids.next(), life.ids.next()
    async with publishing(life):
        with pytest.raises(LookupError), life.publisher.writing(slow):
            life.clock.ms += CLOSED_MS
            await life.publisher.sweep()
            life.publisher.publish(quick, await life.write(quick))
            await life.publisher.flush()
            await life.store.write(life.row(slow))
            raise LookupError
    await life.publisher.sweep()
    assert (await life.published())[slow] == 1


async def test_a_write_that_nobody_published_is_swept(life: Life) -> None:
    async with life.publisher.running():
        await life.create()
        forgotten = life.ids.next()
        await life.write(forgotten)
        await life.publisher.flush()
    life.clock.ms += CLOSED_MS
    assert await life.publisher.sweep() == 1
    assert (await life.published())[forgotten] == 1
    assert await life.unmarked() == []


async def test_what_another_wrote_under_our_number_while_we_were_interrupted_is_published(life: Life) -> None:
    async with life.publisher.running():
        mine = await life.create()
        await life.publisher.flush()
    # Another process had our number for a moment, and died before it published.
    theirs = life.ids.next()
    await life.store.write(life.row(theirs))
    life.publisher.take_over_again()
    with life.publisher.writing(again := life.ids.next()):
        await life.store.write(life.row(again))
    life.publisher.publish(again, ())
    assert slot_key(mine) == slot_key(theirs) == slot_key(again)
    life.clock.ms += CLOSED_MS
    await life.publisher.sweep()
    assert (await life.published())[theirs]
    assert await life.unmarked() == []


async def test_an_interruption_while_a_start_takes_over_is_not_forgotten(life: Life) -> None:
    life.publisher.take_over_again()
    listing = life.outbox.unmarked

    async def interrupted(*, before_slot: int, limit: int) -> list[SlotKey]:
        listed = await listing(before_slot=before_slot, limit=limit)
        life.publisher.take_over_again()
        return list(listed)

    life.outbox.unmarked = interrupted  # type: ignore[method-assign]
    await life.publisher.sweep()
    life.outbox.unmarked = listing  # type: ignore[method-assign]
    theirs = life.ids.next()
    await life.store.write(life.row(theirs))
    await life.publisher.sweep()
    assert (await life.published())[theirs] == 1


async def test_a_write_that_had_nothing_to_publish_costs_no_second_publishing(life: Life) -> None:
    async with life.publisher.running():
        id_ = await life.create()
        nothing = life.ids.next()
        with life.publisher.writing(nothing):
            pass
        life.publisher.publish(nothing, ())
        await life.publisher.flush()
    life.clock.ms += CLOSED_MS
    assert await life.publisher.sweep() == 0
    assert await life.published() == {id_: 1}


async def test_what_the_log_did_not_take_is_swept(life: Life) -> None:
    async with life.publisher.running():
        await life.hide_the_log()
        id_ = await life.create()
        await life.publisher.flush()
        await life.show_the_log()
        assert await life.published() == {}
        good = await life.create()
        await life.publisher.flush()
    life.clock.ms += CLOSED_MS
    assert await life.publisher.sweep() == 1
    assert await life.published() == {id_: 1, good: 2}


async def test_a_sweep_that_cannot_publish_marks_nothing(life: Life) -> None:
    id_ = life.ids.next()
    await life.write(id_)
    life.clock.ms += CLOSED_MS
    await life.hide_the_log()
    with pytest.raises(Unavailable):
        await life.publisher.sweep()
    assert await life.unmarked() == [slot_key(id_)]
    await life.show_the_log()
    assert await life.publisher.sweep() == 1
    assert await life.published() == {id_: 1}


async def test_what_does_not_fit_the_queue_is_swept(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 2)
    async with live(tmp_path, clock) as life:
        await life.publisher.sweep()
        ids = [await life.create() for _ in range(5)]
        async with life.publisher.running():
            await life.publisher.flush()
            assert await life.published() == dict.fromkeys(ids[:2], 1)
        clock.ms += CLOSED_MS
        assert await life.publisher.sweep() == 1
        assert set(await life.published()) == set(ids)


async def test_what_waits_to_be_published_is_told(life: Life) -> None:
    for _ in range(3):
        await life.create()
    assert life.publisher.unpublished() == Unpublished(events=3, slots=0)
    async with publishing(life):
        await life.publisher.flush()
    assert life.publisher.unpublished() == NOTHING


async def test_what_the_log_did_not_take_is_told_until_it_is_swept(life: Life) -> None:
    async with publishing(life):
        await life.hide_the_log()
        await life.create()
        deleted = life.ids.next()
        life.publisher.publish(
            deleted, await life.write(deleted, CHANGES, topics_text([POSTS_DELETED, PRIVACY]))
        )  # two events of one row
        await life.publisher.flush()
        await life.show_the_log()
        await life.create()
        await life.publisher.flush()
    assert life.publisher.unpublished() == Unpublished(events=3, slots=0)
    assert await life.publisher.sweep() == 0
    assert life.publisher.unpublished() == Unpublished(events=3, slots=0), "the slot may take more rows"
    life.clock.ms += CLOSED_MS
    assert await life.publisher.sweep() == 1
    assert life.publisher.unpublished() == NOTHING


async def test_a_slot_with_a_write_of_unknown_outcome_is_told_until_it_is_swept(life: Life) -> None:
    await life.create_with_unknown_outcome()
    assert life.publisher.unpublished() == Unpublished(events=0, slots=1)
    life.clock.ms += CLOSED_MS
    await life.publisher.sweep()
    assert life.publisher.unpublished() == NOTHING


async def test_a_write_that_never_took_effect_is_told_no_longer_than_its_slot_is_open(life: Life) -> None:
    with pytest.raises(LookupError), life.publisher.writing(life.ids.next()):
        raise LookupError
    assert life.publisher.unpublished().slots == 1
    life.clock.ms += CLOSED_MS
    await life.publisher.sweep()
    assert life.publisher.unpublished().slots == 0


async def test_a_start_tells_which_slots_of_the_life_before_it_has_yet_to_publish(
    tmp_path: Path, clock: HandClock
) -> None:
    async with live(tmp_path, clock) as first:
        for _ in range(3):
            await first.write(first.ids.next())
            clock.ms += SLOT_MS
    async with live(tmp_path, clock) as second:
        assert second.publisher.unpublished() == Unpublished(events=0, slots=None)
        await second.hide_the_log()
        with pytest.raises(Unavailable):
            await second.publisher.sweep()
        assert second.publisher.unpublished() == Unpublished(events=0, slots=3)
        await second.show_the_log()
        clock.ms += CLOSED_MS
        await second.publisher.sweep()
        assert second.publisher.unpublished() == NOTHING


async def test_a_start_in_the_slot_of_the_life_before_it_tells_nothing_once_that_is_published(
    tmp_path: Path, clock: HandClock
) -> None:
    async with live(tmp_path, clock) as first:
        id_ = first.ids.next()
        await first.write(id_)
    clock.ms += 5
    async with live(tmp_path, clock) as second:
        await second.publisher.sweep()
        assert await second.unmarked() == [slot_key(id_)], "it may take more rows"
        assert second.publisher.unpublished() == NOTHING


async def test_an_interruption_is_told_until_its_slots_are_listed(life: Life) -> None:
    life.publisher.take_over_again()
    assert life.publisher.unpublished().slots is None
    await life.publisher.sweep()
    assert life.publisher.unpublished().slots == 0


async def test_what_a_vanished_worker_left_is_told_by_the_one_who_cannot_publish_it(
    tmp_path: Path, clock: HandClock
) -> None:
    async with live(tmp_path, clock, worker=1) as vanished:
        await vanished.write(vanished.ids.next())
    async with live(tmp_path, clock, worker=2) as other:
        await other.publisher.sweep()
        clock.ms += CLOSED_MS
        await other.hide_the_log()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await other.publisher.sweep()
            assert other.publisher.unpublished() == Unpublished(events=0, slots=1)
        await other.show_the_log()
        await other.publisher.sweep()
        assert other.publisher.unpublished() == NOTHING


async def test_what_is_left_while_its_slot_is_read_is_not_taken_for_published(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 1)
    async with live(tmp_path, clock) as life:
        queued, left = await life.create(), life.ids.next()
        assert slot_key(queued) == slot_key(left)
        reading = life.outbox.events

        async def meanwhile(key: SlotKey) -> Sequence[Event]:
            found = await reading(key)
            life.publisher.publish(left, await life.write(left))
            return found

        life.outbox.events = meanwhile  # type: ignore[method-assign]
        await life.publisher.sweep()
        assert life.publisher.unpublished() == Unpublished(events=2, slots=0), "one is queued, one did not fit"


async def test_status_pages_and_metrics_tell_of_all_outboxes_that_run(tmp_path: Path, clock: HandClock) -> None:
    def metric(name: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"outbox": "a_svc"})

    async with live(tmp_path, clock) as one, live(tmp_path, clock, worker=2) as other:
        async with one.publisher.running(), other.publisher.running():
            await eventually(lambda: _told(NOTHING))
            await one.hide_the_log()
            await one.create()
            await other.create()
            await one.publisher.flush()
            await other.publisher.flush()
            assert unpublished()["a_svc"] == Unpublished(events=2, slots=0)
            assert (metric("feedmesh_outbox_events"), metric("feedmesh_outbox_slots")) == (2, 0)
            other.publisher.take_over_again()
            assert unpublished()["a_svc"] == Unpublished(events=2, slots=None)
            assert math.isnan(metric("feedmesh_outbox_slots") or 0)
        assert "a_svc" not in unpublished()
        assert math.isnan(metric("feedmesh_outbox_events") or 0)


async def _told(expected: Unpublished) -> bool:
    return unpublished()["a_svc"] == expected


async def test_a_row_that_came_after_the_listing_keeps_its_slot_unmarked(life: Life) -> None:
    first, second = life.ids.next(), life.ids.next()
    await life.write(first)
    listed = await life.unmarked()
    await life.write(second, CHANGES)
    await life.outbox.mark(listed)
    assert await life.unmarked() == listed
    await life.outbox.mark(listed)
    assert await life.unmarked() == []


async def test_a_late_row_opens_a_marked_slot_again(life: Life) -> None:
    early, late = life.ids.next(), life.ids.next()
    await life.write(early)
    life.clock.ms += CLOSED_MS
    await life.publisher.sweep()
    assert await life.unmarked() == []
    await life.write(late)
    await life.publisher.sweep()
    assert (await life.published())[late] == 1
    assert await life.unmarked() == []


async def test_every_topic_of_every_table_is_swept(life: Life) -> None:
    post, change, silent = (life.ids.next() for _ in range(3))
    await life.write(post)
    await life.write(change, CHANGES, topics_text([POSTS_DELETED, PRIVACY]))
    await life.write(silent, topics="")
    life.clock.ms += CLOSED_MS
    assert await life.publisher.sweep() == 1
    assert await life.published() == {post: 1, change: 2}
    records = await life.log.poll("any", [POSTS_DELETED, PRIVACY], max_records=9, wait_s=0)
    assert [(record.topic, record.key) for record in records] == [(POSTS_DELETED, change % 97), (PRIVACY, change % 97)]


async def test_more_than_one_sweep_can_take_is_taken_by_the_next(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SLOTS_PER_SWEEP", 4)
    monkeypatch.setattr(module, "MAX_BATCH", 3)
    ids = []
    async with life.publisher.running():
        for n in range(10):
            for _ in range(5):
                ids.append(life.ids.next())
                events = await life.write(ids[-1])
                if n % 2:
                    life.publisher.publish(ids[-1], events)
            life.clock.ms += SLOT_MS
        await life.publisher.flush()
    life.clock.ms += CLOSED_MS
    for _ in range(4):
        await life.publisher.sweep()
    assert await life.unmarked() == []
    published = await life.published()
    assert set(published) == set(ids)
    assert all(published[id_] == 1 for n, id_ in enumerate(ids) if n // 5 % 2)


async def test_several_rows_are_written_under_one_guard(life: Life) -> None:
    ids = [life.ids.next() for _ in range(3)]
    with pytest.raises(LookupError), life.publisher.writing(*ids):
        await life.store.write(life.row(ids[0]))
        raise LookupError
    life.clock.ms += CLOSED_MS
    assert await life.publisher.sweep() == 1
    assert await life.published() == {ids[0]: 1}


async def test_the_sweeper_works_by_itself(life: Life) -> None:
    id_ = life.ids.next()
    await life.write(id_)
    async with life.publisher.running():
        life.clock.ms += CLOSED_MS
        await eventually(lambda: _is_marked(life))
    assert (await life.published())[id_]


async def test_the_sweeper_outlives_an_outage(life: Life) -> None:
    id_ = life.ids.next()
    await life.write(id_)
    life.clock.ms += CLOSED_MS
    await life.hide_the_log()
    async with life.publisher.running():
        await asyncio.sleep(0.15)
        assert await life.unmarked() == [slot_key(id_)]
        await life.show_the_log()
        await eventually(lambda: _is_marked(life))
    assert (await life.published())[id_]


async def test_stopping_publishes_what_is_queued(life: Life) -> None:
    async with life.publisher.running():
        ids = [await life.create() for _ in range(100)]
    assert await life.published() == dict.fromkeys(ids, 1)


async def test_flush_waits_no_longer_than_told(life: Life) -> None:
    await life.create()
    with pytest.raises(TimeoutError):
        await life.publisher.flush(timeout_s=0.01)


STEPS = ("create", "write", "unknown", "outage", "tick", "close", "sweep", "crash")


@given(steps=st.lists(st.sampled_from(STEPS), max_size=14))
@settings(max_examples=40, deadline=None)
def test_nothing_stored_is_ever_lost(steps: list[str]) -> None:
    asyncio.run(_live_through(steps))


async def _live_through(steps: list[str]) -> None:
    clock = HandClock()
    with tempfile.TemporaryDirectory() as directory:
        remaining = list(steps)
        stored: set[int] = set()
        while remaining:
            async with live(Path(directory), clock) as life, publishing(life):
                await _one_life(life, remaining, stored)
            clock.ms += 1
        clock.ms += CLOSED_MS
        async with live(Path(directory), clock) as last:
            await last.publisher.sweep()
            await last.publisher.sweep()
            assert stored <= set(await last.published())
            assert await last.unmarked() == []
            assert last.publisher.unpublished() == NOTHING


async def _one_life(life: Life, remaining: list[str], stored: set[int]) -> None:
    """Take steps until one of them is a crash. Whenever nothing is told to wait, nothing does."""
    unacknowledged: set[int] = set()
    while remaining:
        if life.publisher.unpublished() == NOTHING:
            assert stored - unacknowledged <= set(await life.published())
        match remaining.pop(0):
            case "create":
                stored.add(await life.create())
            case "write":
                id_ = life.ids.next()
                await life.write(id_)
                stored.add(id_)
                unacknowledged.add(id_)
            case "unknown":
                stored.add(await life.create_with_unknown_outcome())
            case "outage":
                await life.hide_the_log()
                stored.add(await life.create())
                await life.publisher.flush()
                await life.show_the_log()
            case "tick":
                life.clock.ms += SLOT_MS // 3
            case "close":
                life.clock.ms += CLOSED_MS
            case "sweep":
                await life.publisher.sweep()
            case "crash":
                return


async def _is_marked(life: Life) -> bool:
    return await life.unmarked() == []
