"""Waits until an engine answers, or tells why it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from feedmesh_cli.children import Child, tail
from feedmesh_cli.failures import CliError, ExitCode

LOOK_EVERY_S = 0.1


async def until_ready(child: Child, answers: Callable[[], Awaitable[bool]], *, within_s: float, where: str) -> None:
    """Returns once *answers*. Raises CliError with the end of the child's log when it ends or takes too long."""
    try:
        async with asyncio.timeout(within_s):
            while not await answers():
                if child.exit_code is not None:
                    raise not_started(child, f"it ended: {child.why_it_ended()}", where)
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        raise not_started(child, f"not ready in {within_s:.0f} s", where) from None


def not_started(child: Child, how: str, where: str) -> CliError:
    """The error of an engine that does not serve."""
    return CliError(
        f"{child.name} did not start: {how}",
        where=f"{where}, log {child.log}",
        cause="the end of its log tells; often a taken port, too little memory, or data of a newer version",
        next_step="feedmesh doctor",
        code=ExitCode.UNHEALTHY,
        detail=tail(child.log),
    )
