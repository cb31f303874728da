"""Stops a mesh, or a part of it, from outside, by the processes its file names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Sequence

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.mesh_file import Mesh, ProcessId, load_mesh
from foundation.model.clock import SystemClock

DOWN_TIMEOUT_S = {"embedded": 8.0, "cluster": 40.0}
"""Cassandra and Kafka write down what they hold before they end."""
GONE_WITHIN_S = 3.0
"""How long the kernel may take to clear away what was killed."""
POLL_S = 0.02


async def stop_mesh(mesh: Mesh) -> None:
    """Asks the supervisor to stop; after its profile's DOWN_TIMEOUT_S everything it left is ended, and gone."""
    supervisor = mesh.processes["supervisor"]
    _send(supervisor, signal.SIGTERM)
    await _gone([supervisor], DOWN_TIMEOUT_S[mesh.profile])
    left = list(mesh.processes.values())
    for process in left:
        _send(process, signal.SIGKILL)
    await _gone(left, GONE_WITHIN_S)
    mesh.forget()
    if mesh.temporary:
        shutil.rmtree(mesh.directory, ignore_errors=True)


async def restart_part(mesh: Mesh, part: str, *, timeout_s: float) -> float:
    """Asks *part* to end and waits until its supervisor has started it again; seconds that took. Raises CliError."""
    process = mesh.processes.get(part)
    if mesh.profile != "cluster" or process is None or part == "supervisor":
        raise CliError(
            f"{part} cannot be restarted alone",
            cause="only parts of a cluster are started again by themselves"
            if mesh.profile != "cluster"
            else f"the parts are {', '.join(name for name in mesh.processes if name != 'supervisor')}",
            next_step="feedmesh status",
            code=ExitCode.USAGE,
        )
    clock = SystemClock()
    began = clock.monotonic()
    _send(process, signal.SIGTERM)
    while clock.monotonic() < began + timeout_s:
        now = load_mesh(mesh.directory)
        if now is not None and now.processes[part] != process and now.processes[part].alive():
            return clock.monotonic() - began
        await asyncio.sleep(POLL_S)
    raise CliError(
        f"{part} does not run again after {timeout_s:.0f} s",
        where=str(mesh.logs),
        next_step="feedmesh status",
        code=ExitCode.UNHEALTHY,
    )


async def _gone(processes: Sequence[ProcessId], within_s: float) -> None:
    """Returns when none of *processes* runs, after *within_s* in any case."""
    clock = SystemClock()
    give_up = clock.monotonic() + within_s
    while any(process.alive() for process in processes) and clock.monotonic() < give_up:  # noqa: ASYNC110 - not ours
        await asyncio.sleep(POLL_S)


def _send(process: ProcessId, number: signal.Signals) -> None:
    if process.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
