"""Work beside other work: a task that lives exactly as long as a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from foundation.telemetry.logging import logger


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None], *, name: str) -> AsyncIterator[None]:
    """Owns a task of *work*: at the end, however the block ends, it is cancelled and waited for.

    *work* may take its time over that; it bounds what it still does. When it fails, at whatever moment, that is logged
    as task_failed with *name*, once and at once, and the block goes on without it: work that must not end catches what
    it can meet. Never raises for *work*.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell_of_failure)
    try:
        yield
    finally:
        task.cancel()
        # Not `await task`: there a cancellation of the owner cannot be told from that of the task.
        await asyncio.gather(task, return_exceptions=True)


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None:
        logger.error("task_failed", task=task.get_name(), exc_info=failure)
