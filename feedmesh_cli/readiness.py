"""Waits for a mesh that someone else is starting."""

from __future__ import annotations

import asyncio
from pathlib import Path

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.mesh_file import Mesh, running_mesh
from feedmesh_cli.mesh_status import inspect_mesh
from foundation.model.clock import SystemClock

POLL_S = 0.05


async def wait_until_ready(data: Path | None, *, timeout_s: float) -> Mesh:
    """The mesh of *data*, or the one started last, once all its parts answer.

    Raises CliError (exit 3) after *timeout_s*.
    """
    clock = SystemClock()
    give_up = clock.monotonic() + timeout_s
    while True:
        try:
            mesh = running_mesh(data)
            found = await inspect_mesh(mesh)
            if found.healthy:
                return mesh
            lost = [name for name, runs in found.processes.items() if not runs]
            failure = _unhealthy(lost + ([found.problem] if found.problem else []))
        except CliError as not_running:
            failure = not_running
        if clock.monotonic() > give_up:
            raise failure
        await asyncio.sleep(POLL_S)


def _unhealthy(parts: list[str]) -> CliError:
    return CliError(
        f"not ready in time: {', '.join(parts)}",
        cause="the part is overloaded or has ended",
        next_step="feedmesh status",
        code=ExitCode.UNHEALTHY,
    )
