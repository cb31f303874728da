"""Starts a mesh and watches over it until it is told to stop or a part ends.

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

from feedmesh_cli.children import Child
from feedmesh_cli.failures import CliError
from feedmesh_cli.mesh_file import Mesh, load_mesh
from feedmesh_cli.starting import POLL_S, Report, Starting, UpOptions, ended


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
    children: list[Child] = []
    me = asyncio.current_task()
    loop = asyncio.get_running_loop()
    is_up = False

    def on_signal() -> None:
        if stopping.is_set():
            for child in children:
                child.kill()
            return
        stopping.set()
        report("stopping")
        if not is_up and me is not None:
            me.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    try:
        async with _mesh(options, children, report) as mesh:
            await _or_ended(children, prepare(mesh))
            ready = replace(mesh, ready=True)
            ready.save()
            is_up = True
            started(ready)
            await _or_ended(children, stopping.wait())
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


@asynccontextmanager
async def _mesh(options: UpOptions, children: list[Child], report: Report) -> AsyncIterator[Mesh]:
    """Everything started and answering; everything stopped afterwards, in reverse order."""
    data = options.data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        if options.temporary:
            stack.callback(shutil.rmtree, data, ignore_errors=True)
        stack.enter_context(_only_supervisor(data))
        await _end_leftovers(data, report)
        starting = Starting(options=options, stack=stack, report=report, children=children)
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


async def _or_ended(children: list[Child], work: Awaitable[object]) -> None:
    """Waits for *work*, unless a child ends first: then CliError with the tail of its log."""
    working = asyncio.ensure_future(work)
    ends = {asyncio.ensure_future(child.wait()): child for child in children}
    try:
        await asyncio.wait({working, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for end, child in ends.items():
            if end.done() and not working.done():
                raise ended(child)
        await working
    finally:
        for task in (working, *ends):
            task.cancel()
        await asyncio.gather(working, *ends, return_exceptions=True)


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
