"""Starts a mesh and watches over it until it is told to stop or a part ends that is not to be started again.

The supervisor has a lock on the data directory for as long as it lives, so one directory never has two meshes, and a
lock that is free beside a mesh.json means that a supervisor died: its leftovers are ended first.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from feedmesh_cli.failures import CliError
from feedmesh_cli.mesh_file import Mesh, ProcessId, load_mesh
from feedmesh_cli.starting import POLL_S, Part, Report, Starting, UpOptions, ended
from foundation.model.clock import SystemClock

SHORT_LIFE_S = 60.0
"""A part that lives no longer after it was started again is not well."""
MOST_IN_A_ROW = 10
"""Short lives after which the mesh is given up."""
LONGEST_PAUSE_S = 10.0
ASKED_TO_END = (0, 143, -signal.SIGTERM)
"""How parts end after SIGTERM; Java adds 128 to the signal's number."""


async def run_mesh(
    options: UpOptions,
    *,
    prepare: Callable[[Mesh], Awaitable[None]],
    started: Callable[[Mesh], None],
    report: Report,
) -> None:
    """Starts the mesh and returns after SIGINT, SIGTERM or SIGHUP with everything stopped.

    *prepare* runs before the mesh counts as ready, *started* after.

    A second signal kills the parts instead of waiting for them. Raises CliError (exit 3) when a part does not start or
    ends by itself.
    """
    stopping = asyncio.Event()
    parts: list[Part] = []
    me = asyncio.current_task()
    loop = asyncio.get_running_loop()
    is_up = False

    def on_signal() -> None:
        if stopping.is_set():
            for part in parts:
                part.server.child.kill()
            return
        stopping.set()
        report("stopping")
        if not is_up and me is not None:
            me.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    try:
        async with _mesh(options, parts, report) as mesh:
            await _or_ended(parts, prepare(mesh))
            ready = replace(mesh, ready=True)
            ready.save()
            is_up = True
            started(ready)
            await _or_ended(parts, stopping.wait(), _Reviver(ready, report, options.restart_after_s))
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


class _Reviver:
    """Starts parts again that ended by themselves, and writes down their new processes."""

    def __init__(self, mesh: Mesh, report: Report, after_s: float) -> None:
        self._mesh = mesh
        self._report = report
        self._after_s = after_s
        self._clock = SystemClock()

    async def watch(self, part: Part) -> None:
        """Keeps *part* alive until cancelled. Raises CliError when its end is the end of the mesh."""
        in_a_row = 0
        started = True
        while True:
            began = self._clock.monotonic()
            child = part.server.child
            await child.wait()
            lived_s = self._clock.monotonic() - began
            if part.again is not None and started and child.exit_code in ASKED_TO_END:
                in_a_row, pause_s = 0, 0.0
                self._report(f"{part.name} was asked to end: it is started again")
            else:
                in_a_row = in_a_row + 1 if lived_s < SHORT_LIFE_S else 1
                if part.again is None or in_a_row > MOST_IN_A_ROW:
                    raise ended(child)
                pause_s = min(self._after_s * 2 ** (in_a_row - 1), max(self._after_s, LONGEST_PAUSE_S))
                why = child.why_it_ended()
                self._report(f"{part.name} ended by itself ({why}): it is started again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            started = False
            try:
                part.server = await part.again()
            except CliError as failure:
                self._report(f"{part.name} did not start: {failure}")
                continue  # the child of before has ended: the next turn counts another short life
            started = True
            processes = {**self._mesh.processes, part.name: ProcessId.of(part.server.child.pid)}
            self._mesh = replace(self._mesh, processes=processes)
            self._mesh.save()


@asynccontextmanager
async def _mesh(options: UpOptions, parts: list[Part], report: Report) -> AsyncIterator[Mesh]:
    """Everything started and answering; everything stopped afterwards, in reverse order."""
    data = options.data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        if options.temporary:
            stack.callback(shutil.rmtree, data, ignore_errors=True)
        stack.enter_context(_only_supervisor(data))
        await _end_leftovers(data, report)
        starting = Starting(options=options, stack=stack, report=report, parts=parts)
        starting.logs.mkdir(exist_ok=True)
        mesh = await _start(starting)
        mesh.save()
        stack.callback(mesh.forget)
        mesh.make_default()
        yield mesh


async def _start(starting: Starting) -> Mesh:
    if starting.options.profile == "cluster":
        from feedmesh_cli.cluster_mesh import start_cluster

        return await start_cluster(starting)
    from feedmesh_cli.embedded_mesh import start_embedded

    return await start_embedded(starting)


async def _or_ended(parts: list[Part], work: Awaitable[object], reviver: _Reviver | None = None) -> None:
    """Waits for *work*, unless a part ends that is not started again: then CliError with the tail of its log."""
    working = asyncio.ensure_future(work)
    watched = [asyncio.ensure_future(reviver.watch(part) if reviver else _ends(part)) for part in parts]
    try:
        await asyncio.wait({working, *watched}, return_when=asyncio.FIRST_COMPLETED)
        for watching in watched:
            if watching.done() and not working.done():
                await watching
        await working
    finally:
        for task in (working, *watched):
            task.cancel()
        await asyncio.gather(working, *watched, return_exceptions=True)


async def _ends(part: Part) -> None:
    await part.server.child.wait()
    raise ended(part.server.child)


@contextmanager
def _only_supervisor(data: Path) -> Iterator[None]:
    """The lock on *data*; the kernel gives it back however we end."""
    with (data / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _already_running(data) from None
        yield


def _already_running(data: Path) -> CliError:
    mesh = load_mesh(data)
    pid = mesh.processes["supervisor"].pid if mesh else "unknown"
    return CliError(
        "a mesh is already running on this data directory",
        where=f"{data}, supervisor pid {pid}",
        cause=f"it serves {mesh.edge}" if mesh else "it is still starting",
        next_step=f"feedmesh status --data {data}, or feedmesh down --data {data}",
    )


async def _end_leftovers(data: Path, report: Report) -> None:
    """Ends what a supervisor that died left behind, by pid and start time."""
    mesh = load_mesh(data)
    if mesh is None:
        return
    for name, process in mesh.processes.items():
        if process.alive():
            report(f"ending {name} (pid {process.pid}), left behind by a supervisor that died")
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            while process.alive():  # noqa: ASYNC110 - not our child: there is nothing to wait on
                await asyncio.sleep(POLL_S)
    mesh.forget()
