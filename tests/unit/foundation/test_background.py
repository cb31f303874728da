"""Work beside other work lives as long as its block, and its failure is told."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from foundation.background import in_background


class Work:
    """Goes on until it is cancelled, and then takes a few turns to end."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancellations = 0
        self.ended = False

    async def __call__(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancellations += 1
            for _ in range(3):
                await asyncio.sleep(0)
            raise
        finally:
            self.ended = True


async def test_work_ends_with_its_block_and_is_waited_for() -> None:
    work = Work()
    with capture_logs() as told:
        async with in_background(work(), name="work"):
            await work.began.wait()
            assert not work.ended
    assert work.ended
    assert told == []


async def test_work_that_never_had_its_turn_ends_all_the_same() -> None:
    work = Work()
    async with in_background(work(), name="work"):
        pass
    assert not work.began.is_set()


async def test_work_that_is_done_early_leaves_the_block_alone() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    with capture_logs() as told:
        async with in_background(work(), name="work"):
            await asyncio.sleep(0)
            assert done == ["work"]
    assert told == []


async def test_a_failure_is_told_at_once_and_leaves_the_block_alone() -> None:
    failure = ZeroDivisionError()

    async def work() -> None:
        raise failure

    with capture_logs() as told:
        async with in_background(work(), name="rounds"):
            for _ in range(3):
                await asyncio.sleep(0)
            assert told == [{"event": "task_failed", "log_level": "error", "task": "rounds", "exc_info": failure}]
    assert len(told) == 1


async def test_a_failure_at_the_end_is_told() -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    with capture_logs() as told:
        async with in_background(work(), name="work"):
            await asyncio.sleep(0)
    assert [event["event"] for event in told] == ["task_failed"]


async def test_what_the_block_raises_comes_out_after_the_work_ended() -> None:
    work = Work()
    with pytest.raises(ZeroDivisionError):
        async with in_background(work(), name="work"):
            await work.began.wait()
            raise ZeroDivisionError
    assert work.ended


async def test_who_is_cancelled_while_the_work_ends_is_cancelled_after_it() -> None:
    work = Work()
    leaving = asyncio.Event()

    async def owner() -> None:
        async with in_background(work(), name="work"):
            await work.began.wait()
            leaving.set()

    owning = asyncio.create_task(owner())
    await leaving.wait()
    owning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owning
    assert work.ended


async def test_who_is_cancelled_in_the_block_takes_the_work_along() -> None:
    work = Work()

    async def owner() -> None:
        async with in_background(work(), name="work"):
            await asyncio.Event().wait()

    owning = asyncio.create_task(owner())
    await work.began.wait()
    owning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owning
    assert (work.ended, work.cancellations) == (True, 1)
