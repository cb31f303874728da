"""Starts the embedded mesh and watches over it until it is told to stop or a part ends.

Valkey, one process with every service, Envoy; in this order, since each needs the one before. The supervisor has a lock
on the data directory for as long as it lives, so one directory never has two meshes, and a lock that is free beside a
mesh.json means that a supervisor died: its leftovers are ended first.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from feedmesh_cli.children import Child, start_child, tail
from feedmesh_cli.edge import EdgeSettings, envoy_command, write_edge_config
from feedmesh_cli.embedded_config import SERVICES, EmbeddedConfig
from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.loopback_http import get
from feedmesh_cli.mesh_file import Mesh, ProcessId, load_mesh
from feedmesh_cli.mesh_status import edge_ready
from feedmesh_cli.ports import choose_ports
from feedmesh_cli.valkey import ValkeyServer
from foundation.model.clock import SystemClock, SystemRandomness

READY_TIMEOUT_S = 30.0
GRACE_S = 1.5
"""How long a part may take to end after it is asked to."""
POLL_S = 0.02

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What `feedmesh up` was asked for."""

    data: Path
    """Absolute."""
    temporary: bool = False
    """Remove *data* at the end."""
    port_base: int | None = None
    engine: str = "native"
    model: str = ""
    """ONNX file that ranks; empty: the rule-based score."""
    bench_target: str = ""
    """ "host:port" of a no-op bench service to route to."""


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
        logs = data / "logs"
        logs.mkdir(exist_ok=True)
        ports = choose_ports(options.port_base)

        services = await start_child(
            "services", [sys.executable, "-m", "feedmesh_cli.embedded"], logs / "services.log", pipe=True
        )
        children.append(services)
        stack.push_async_callback(services.stop, grace_s=GRACE_S)

        valkey = ValkeyServer()
        await valkey.launch(data / "valkey", ports.valkey)
        children.append(valkey.child)
        stack.push_async_callback(valkey.stop)

        keys = _keys(data)
        # Services end before the Valkey they write to; the first callback is for a Valkey that does not start.
        stack.push_async_callback(services.stop, grace_s=GRACE_S)
        service_ports = {name: getattr(ports, name) for name in SERVICES}
        config = EmbeddedConfig(
            data=str(data),
            redis=f"127.0.0.1:{ports.valkey}",
            ports=service_ports,
            status_port=ports.status,
            internal_key=keys.internal_key,
            cursor_key=keys.cursor_key,
            jwks_path=str(keys.jwks_path),
            engine=options.engine,
            model_path=options.model,
        )
        await services.tell(config.to_line())
        await _ready(services, lambda: _answers(f"127.0.0.1:{ports.status}"), "feedmesh up --engine grpcio")

        addresses = {name: f"127.0.0.1:{port}" for name, port in service_ports.items()}
        edge = EdgeSettings(
            port=ports.edge,
            admin_port=ports.envoy_admin,
            jwks_path=keys.jwks_path,
            services={name: [addresses[name]] for name in ("feed_svc", "post_svc", "graph_svc")},
            access_log=str(logs / "access.log"),
            bench_target=options.bench_target,
        )
        write_edge_config(edge, data / "envoy.yaml")
        envoy = await start_child("envoy", envoy_command(data / "envoy.yaml"), logs / "envoy.log")
        children.append(envoy)
        stack.push_async_callback(envoy.stop, grace_s=GRACE_S)
        await valkey.writable()
        await _ready(envoy, lambda: edge_ready(f"127.0.0.1:{ports.envoy_admin}"), "feedmesh up --port-base 9000")

        mesh = Mesh(
            data=str(data),
            temporary=options.temporary,
            profile="embedded",
            edge=f"http://127.0.0.1:{ports.edge}",
            envoy_admin=f"127.0.0.1:{ports.envoy_admin}",
            status=f"http://127.0.0.1:{ports.status}",
            redis=f"127.0.0.1:{ports.valkey}",
            services=addresses,
            internal_key=keys.internal_key,
            processes={
                "supervisor": ProcessId.of(os.getpid()),
                "valkey": ProcessId.of(valkey.pid),
                "services": ProcessId.of(services.pid),
                "envoy": ProcessId.of(envoy.pid),
            },
        )
        mesh.save()
        stack.callback(mesh.forget)
        mesh.make_default()
        yield mesh


async def _or_ended(children: list[Child], work: Awaitable[object]) -> None:
    """Waits for *work*, unless a child ends first: then CliError with the tail of its log."""
    working = asyncio.ensure_future(work)
    ends = {asyncio.ensure_future(child.wait()): child for child in children}
    try:
        await asyncio.wait({working, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for end, child in ends.items():
            if end.done() and not working.done():
                raise _ended(child)
        await working
    finally:
        for task in (working, *ends):
            task.cancel()
        await asyncio.gather(working, *ends, return_exceptions=True)


async def _ready(child: Child, answers: Callable[[], Awaitable[bool]], next_step: str) -> None:
    """Polls until *answers*. Raises CliError (exit 3) when the child ends before or is not ready in READY_TIMEOUT_S."""
    clock = SystemClock()
    give_up = clock.monotonic() + READY_TIMEOUT_S
    while not await answers():
        if child.exit_code is not None:
            raise _ended(child)
        if clock.monotonic() > give_up:
            raise CliError(
                f"{child.name} was not ready in {READY_TIMEOUT_S:.0f} s",
                where=str(child.log),
                cause="the machine is overloaded, or a part it needs does not answer",
                next_step=next_step,
                code=ExitCode.UNHEALTHY,
                detail=tail(child.log),
            )
        await asyncio.sleep(POLL_S)


def _ended(child: Child) -> CliError:
    killed = child.exit_code == -signal.SIGKILL
    return CliError(
        f"{child.name} ended by itself ({child.why_it_ended()})",
        where=str(child.log),
        cause="it was killed from outside, or the machine ran out of memory" if killed else "the end of its log tells",
        next_step="feedmesh up",
        code=ExitCode.UNHEALTHY,
        detail=tail(child.log),
    )


async def _answers(status_address: str) -> bool:
    try:
        status, _ = await get(status_address, "/status", timeout_s=2.0)
    except OSError:
        return False
    return status == 200


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


@dataclass(frozen=True)
class _Keys:
    internal_key: str
    cursor_key: str
    jwks_path: Path


def _keys(data: Path) -> _Keys:
    """The keys of this data directory, made at its first start: tokens and cursors outlive a restart."""
    from foundation.rpc.tokens import DevIssuer  # takes a while: the services are starting meanwhile

    directory = data / "keys"
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / "mesh.json"
    try:
        secrets = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        randomness = SystemRandomness()
        secrets = {name: randomness.token_bytes(32).hex() for name in ("internal_key", "cursor_key")}
        path.touch(mode=0o600)
        path.write_text(json.dumps(secrets), encoding="utf-8")
    return _Keys(secrets["internal_key"], secrets["cursor_key"], DevIssuer.load_or_create(directory).jwks_path)
