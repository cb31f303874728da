"""Stops a mesh from outside, by the processes its file names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal

from feedmesh_cli.mesh_file import Mesh, ProcessId
from foundation.model.clock import SystemClock

DOWN_TIMEOUT_S = {"embedded": 8.0, "cluster": 40.0}
"""Cassandra and Kafka write down what they hold before they end."""
POLL_S = 0.02


async def stop_mesh(mesh: Mesh) -> None:
    """Asks the supervisor to stop; after its profile's DOWN_TIMEOUT_S everything it left is ended."""
    clock = SystemClock()
    supervisor = mesh.processes["supervisor"]
    _send(supervisor, signal.SIGTERM)
    give_up = clock.monotonic() + DOWN_TIMEOUT_S[mesh.profile]
    while supervisor.alive() and clock.monotonic() < give_up:  # noqa: ASYNC110 - not our child
        await asyncio.sleep(POLL_S)
    for process in mesh.processes.values():
        _send(process, signal.SIGKILL)
    mesh.forget()
    if mesh.temporary:
        shutil.rmtree(mesh.directory, ignore_errors=True)


def _send(process: ProcessId, number: signal.Signals) -> None:
    if process.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
