"""Ids stay unique and ascending over leases that are lost, taken over, renewed late or not at all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import MetaData

from foundation.errors import Unavailable
from foundation.leases import holder as holder_module
from foundation.leases import worker_lease as module
from foundation.leases.holder import holding_a_name
from foundation.leases.port import LEASE_S, REST_S, Holder
from foundation.leases.sql_leases import SqlWorkerLeases, worker_leases_table
from foundation.leases.worker_lease import SAFETY_S, Claim, WorkerLease, take_lease, worker_lease
from foundation.model.clock import Millis, SystemRandomness
from foundation.model.ids import EPOCH_MS, Snowflakes, worker_of
from foundation.sql.database import open_database
from tests.kit.eventually import eventually

TABLES = MetaData()
WORKER_LEASES = worker_leases_table(TABLES)
MINTS_FOR_S = LEASE_S - SAFETY_S
CLAIM = Claim(service="post_svc", region=0, workers=range(7, 8), name="", host="127.0.0.1", port=0)


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.ms = EPOCH_MS + 10_000_000

    def now_ms(self) -> Millis:
        return Millis(self.ms)

    def monotonic(self) -> float:
        return self.ms / 1000


@dataclass
class Wire:
    """The store behind a network that the test makes slow or cuts: leases as they are, questions and answers late."""

    leases: SqlWorkerLeases
    clock: HandClock
    question_ms: int = 0
    answer_ms: int = 0
    cut: bool = False
    answer_lost: bool = False

    async def take(self, node: int, holder: Holder, *, lease_s: int = LEASE_S) -> str | None:
        self._ask()
        answer = await self.leases.take(node, holder, lease_s=lease_s)
        self._answer()
        return answer

    async def renew(self, node: int, holder: Holder, *, lease_s: int = LEASE_S) -> bool:
        self._ask()
        answer = await self.leases.renew(node, holder, lease_s=lease_s)
        self._answer()
        return answer

    async def give_back(self, node: int, holder: Holder, *, rest_s: int = REST_S) -> None:
        self._ask()
        await self.leases.give_back(node, holder, rest_s=rest_s)
        self._answer()

    def _ask(self) -> None:
        if self.cut:
            raise Unavailable("STORE_UNAVAILABLE")
        self.clock.ms += self.question_ms

    def _answer(self) -> None:
        self.clock.ms += self.answer_ms
        if self.answer_lost:
            raise Unavailable("STORE_UNAVAILABLE")


@asynccontextmanager
async def wired() -> AsyncIterator[Wire]:
    clock = HandClock()
    async with open_database("sqlite://", TABLES) as database:
        yield Wire(SqlWorkerLeases(database, WORKER_LEASES, clock), clock)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with wired() as wire:
        yield wire


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hand clock does not move while a start waits for a number to have rested."""
    monkeypatch.setattr(module, "REST_S", 0)


def life(name: str = "ana", number: int = 1) -> Holder:
    return Holder(name, f"{name} {number}")


async def started(wire: Wire, holder: Holder, claim: Claim = CLAIM) -> WorkerLease:
    return await take_lease(wire, claim, holder, wire.clock)


async def test_ids_are_minted_until_shortly_before_the_lease_ends(wire: Wire) -> None:
    lease = await started(wire, life())
    assert worker_of(lease.ids.next()) == 7
    wire.clock.ms += MINTS_FOR_S * 1_000 - 1
    lease.ids.next()
    wire.clock.ms += 1
    with pytest.raises(Unavailable) as refused:
        lease.ids.next()
    assert refused.value.reason == "ID_LEASE_LOST"


async def test_a_renewal_counts_from_when_it_was_asked_for(wire: Wire) -> None:
    lease = await started(wire, life())
    asked_s = wire.clock.monotonic()
    wire.question_ms, wire.answer_ms = 2_000, 3_000
    assert await lease.renew()
    assert lease.ids.until_s == asked_s + MINTS_FOR_S


async def test_a_store_that_is_away_stops_minting_and_its_return_lets_it_go_on(wire: Wire) -> None:
    lease = await started(wire, life())
    interrupted: list[float] = []
    lease.when_interrupted = lambda: interrupted.append(wire.clock.monotonic())
    wire.cut = True
    wire.clock.ms += 2_000
    assert not await lease.renew()
    lease.ids.next()
    wire.clock.ms += LEASE_S * 1_000
    assert not await lease.renew()
    with pytest.raises(Unavailable):
        lease.ids.next()
    assert interrupted == []
    wire.cut = False
    assert await lease.renew()
    assert interrupted == [wire.clock.monotonic()]
    lease.ids.next()


async def test_a_renewal_in_time_interrupts_nobody(wire: Wire) -> None:
    lease = await started(wire, life())
    lease.when_interrupted = lambda: pytest.fail("nothing was interrupted")
    for _ in range(5):
        wire.clock.ms += 10_000
        assert await lease.renew()


async def test_of_two_processes_with_one_number_the_second_is_told_what_to_do(wire: Wire) -> None:
    await started(wire, life("ana"))
    with pytest.raises(Unavailable) as refused:
        await started(wire, life("bo"))
    assert refused.value.reason == "WORKERS_TAKEN"
    for told in ("7 to 7", "7: ana", "FEEDMESH_WORKERS", "FEEDMESH_WORKER", f"{LEASE_S} s"):
        assert told in refused.value.message


async def test_of_two_processes_with_a_range_the_second_takes_the_next_number(wire: Wire) -> None:
    claim = replace(CLAIM, workers=range(7, 9))
    first, second = await started(wire, life("ana"), claim), await started(wire, life("bo"), claim)
    assert [worker_of(lease.ids.next()) for lease in (first, second)] == [7, 8]


async def test_a_process_that_lost_its_number_never_mints_with_it_again(wire: Wire) -> None:
    lost = await started(wire, life("ana"))
    wire.clock.ms += (LEASE_S + 1) * 1_000
    await started(wire, life("bo"))
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            await lost.renew()
        assert refused.value.reason == "ID_LEASE_LOST"
        assert lost.ids.until_s == -math.inf
        wire.clock.ms += 10 * LEASE_S * 1_000


async def test_the_loss_of_the_number_ends_what_runs_with_it(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_EVERY_S", 0.01)
    torn_down = False
    with pytest.raises(Unavailable) as lost:
        async with worker_lease(wire, CLAIM, wire.clock, SystemRandomness()) as lease:
            try:
                wire.clock.ms += (LEASE_S + 1) * 1_000
                assert await wire.leases.take(lease.ids.node, life("bo")) is None
                await asyncio.sleep(10)
            finally:
                torn_down = True
    assert lost.value.reason == "ID_LEASE_LOST"
    assert torn_down
    assert await wire.leases.renew(7, life("bo"))


async def test_a_failure_of_what_runs_with_it_comes_out_as_it_is_and_the_number_is_given_back(wire: Wire) -> None:
    failure = LookupError("something else")
    with pytest.raises(LookupError) as raised:
        async with worker_lease(wire, CLAIM, wire.clock, SystemRandomness()) as lease:
            raise failure
    assert raised.value is failure
    with pytest.raises(Unavailable):
        lease.ids.next()
    wire.clock.ms += REST_S * 1_000
    await started(wire, life("bo"))


async def test_the_renewer_asks_again_soon_after_a_failure(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_EVERY_S", 0.01)
    monkeypatch.setattr(module, "RENEW_AGAIN_S", 0.01)
    async with worker_lease(wire, CLAIM, wire.clock, SystemRandomness()) as lease:
        wire.cut = True
        wire.clock.ms += LEASE_S * 1_000
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable):
            lease.ids.next()
        wire.cut = False

        async def mints() -> bool:
            return lease.ids.until_s > wire.clock.monotonic()

        await eventually(mints)
        lease.ids.next()


def test_a_name_is_held_by_one_at_a_time_and_had_again_at_once() -> None:
    def held(service: str = "post_svc", name: str = "", port: int = 4_711):  # type: ignore[no-untyped-def]
        return holding_a_name(service, name=name, host="127.0.0.1", port=port, randomness=SystemRandomness())

    with held() as first:
        with pytest.raises(Unavailable) as refused, held():
            pass
        assert refused.value.reason == "ALREADY_RUNNING"
        assert "post_svc at 127.0.0.1:4711" in refused.value.message
        with held(port=4_712), held("graph_svc"), held(name="a mesh"):
            pass
    with held() as again:
        assert again.name == first.name
        assert again.life != first.life


def test_without_an_address_or_a_kernel_that_tells_it_apart_every_life_has_a_name_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def name(port: int) -> str:
        with holding_a_name("post_svc", name="", host="h", port=port, randomness=SystemRandomness()) as holder:
            return holder.name

    assert name(0) != name(0)
    assert name(4_711) == name(4_711)
    monkeypatch.setattr(holder_module, "_NETWORK", "/nowhere")
    assert name(4_711) != name(4_711)


@dataclass
class Processes:
    """Processes that all want the same two numbers, of which they remember what they minted."""

    wire: Wire
    running: dict[int, WorkerLease] = field(default_factory=dict)
    minted: dict[int, list[int]] = field(default_factory=dict)
    lives: count[int] = field(default_factory=count)

    async def start(self, place: int) -> None:
        """A new life of the same name; the one before has died. Ids rely on it that this takes a second."""
        self.running.pop(place, None)
        self.wire.clock.ms += Snowflakes.MAX_AHEAD_MS
        try:
            self.running[place] = await started(
                self.wire, life(f"p{place}", next(self.lives)), replace(CLAIM, workers=range(7, 9))
            )
        except Unavailable:
            return

    async def renew(self, place: int) -> None:
        lease = self.running.get(place)
        if lease is None:
            return
        try:
            await lease.renew()
        except Unavailable:
            # It ends a moment later; until then it may try what it likes.
            self.mint(place)
            del self.running[place]

    async def stop(self, place: int) -> None:
        lease = self.running.get(place)
        if lease is not None:
            await lease.give_back()
            self.mint(place)
            del self.running[place]

    def mint(self, place: int) -> None:
        lease = self.running.get(place)
        if lease is None:
            return
        try:
            minted = lease.ids.next()
        except Unavailable:
            return
        self.minted.setdefault(worker_of(minted), []).append(minted)


PLACES = st.integers(0, 2)
DELAYS_MS = st.sampled_from((0, 0, 400, 4_000, 25_000))
STEP = st.one_of(
    st.tuples(st.just("start"), PLACES),
    st.tuples(st.just("renew"), PLACES),
    st.tuples(st.just("mint"), PLACES),
    st.tuples(st.just("stop"), PLACES),
    st.tuples(st.just("wait"), st.sampled_from((1, 1_000, 9_000, 19_999, 31_000))),
    st.tuples(st.just("wire"), st.tuples(DELAYS_MS, DELAYS_MS, st.booleans(), st.booleans())),
)


LATE_ANSWER: list[tuple[str, object]] = [
    ("wire", (0, 25_000, False, False)),
    ("renew", 0),
    ("wire", (0, 0, False, False)),
    ("wait", 9_000),
    ("start", 2),
]
"""The store's lease ended 30 s after it was asked, of which the answer took 25."""


@example(steps=LATE_ANSWER)
@given(steps=st.lists(STEP, min_size=5, max_size=40))
@settings(max_examples=200, deadline=None)
def test_ids_of_one_number_ascend_through_everything(steps: list[tuple[str, object]]) -> None:
    asyncio.run(_live_through(steps))


async def _live_through(steps: list[tuple[str, object]]) -> None:
    async with wired() as wire:
        processes = Processes(wire)
        for place in range(3):
            await processes.start(place)
        for step, what in steps:
            match step:
                case "wait":
                    wire.clock.ms += what  # type: ignore[operator]
                case "wire":
                    wire.question_ms, wire.answer_ms, wire.cut, wire.answer_lost = what  # type: ignore[misc]
                case "mint":
                    processes.mint(what)  # type: ignore[arg-type]
                case _:
                    await getattr(processes, step)(what)
            # Whoever can mint does, at the worst moment of all.
            for place in list(processes.running):
                processes.mint(place)
        for ids in processes.minted.values():
            assert ids == sorted(set(ids))
