"""What every profile needs while its mesh starts: children that are watched, keys, the edge."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from feedmesh_cli.children import Child, start_child, tail
from feedmesh_cli.edge import EdgeSettings, envoy_command, write_edge_config
from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.loopback_http import get
from feedmesh_cli.mesh_status import edge_ready
from feedmesh_cli.ports import MeshPorts, choose_ports, holding
from foundation.model.clock import SystemClock, SystemRandomness

READY_TIMEOUT_S = 30.0
GRACE_S = 1.5
"""How long a part may take to end after it is asked to."""
POLL_S = 0.02
PUBLIC_SERVICES = ("feed_svc", "post_svc", "graph_svc")

P = TypeVar("P", bound=MeshPorts)
Report = Callable[[str], None]


class Server(Protocol):
    """A process that was started, and how to end it."""

    @property
    def child(self) -> Child:
        """The process."""
        ...

    async def stop(self) -> None:
        """End it; again does nothing."""
        ...


Launch = Callable[[], Awaitable[Server]]


@dataclass(frozen=True)
class Program:
    """A server that is no more than its process."""

    child: Child

    async def stop(self) -> None:
        """Ask it to end, and end it."""
        await self.child.stop(grace_s=GRACE_S)


@dataclass(kw_only=True)
class Part:
    """One of the processes that a mesh is made of."""

    name: str
    server: Server
    again: Launch | None
    """Starts it anew after it ended by itself; None: its end is the end of the mesh."""

    async def stop(self) -> None:
        """End what runs of it now."""
        await self.server.stop()


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What `feedmesh up` was asked for."""

    data: Path
    """Absolute."""
    temporary: bool = False
    """Remove *data* at the end."""
    profile: str = "embedded"
    port_base: int | None = None
    engine: str = "native"
    model: str = ""
    """ONNX file that ranks; empty: the rule-based score."""
    recommendations: bool = True
    """Whether RANKED heads hold posts of people whom the viewer does not follow."""
    bench_target: str = ""
    """ "host:port" of a no-op bench service to route to."""
    cassandra: str = ""
    """Cluster profile: nodes of a Cassandra or ScyllaDB that is there, instead of one of its own."""
    kafka: str = ""
    """Cluster profile: brokers that are there."""
    redis: str = ""
    """Cluster profile: nodes of a Redis or Valkey Cluster that is there."""
    fanout_workers: int = 1
    """Cluster profile: processes that share the fan-out."""
    restart_after_s: float = 1.0
    """Cluster profile: how long a part that ended by itself stays down."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Settings of services that are not to be as they are by default, by FEEDMESH_<NAME>."""


@dataclass(frozen=True, kw_only=True)
class Starting:
    """A mesh that is being started."""

    options: UpOptions
    stack: AsyncExitStack
    """Stops in reverse order what was started."""
    report: Report
    parts: list[Part] = field(default_factory=list)
    """Everything that was started."""

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.options.data

    @property
    def logs(self) -> Path:
        """Where the parts' output goes."""
        return self.options.data / "logs"

    def choose_ports(self, kind: type[P]) -> P:
        """The ports of this mesh; nobody else chooses its edge's from here on. Raises CliError."""
        while True:
            ports = choose_ports(self.options.port_base, kind)
            try:
                self.stack.enter_context(holding(ports.edge))
            except OSError:
                continue  # another mesh was faster by a moment: it is not found free again
            return ports

    def watch(self, name: str, server: Server, again: Launch | None = None) -> None:
        """Count *server* as a part, and stop it at the end."""
        part = Part(name=name, server=server, again=again)
        self.parts.append(part)
        self.stack.push_async_callback(part.stop)

    async def keep(self, name: str, launch: Launch) -> Server:
        """Start a part that is started again whenever it ends by itself. Raises what *launch* raises."""
        server = await launch()
        self.watch(name, server, launch)
        return server

    async def start_edge(
        self, ports: MeshPorts, jwks_path: Path, addresses: Mapping[str, str], *, kept: bool = False
    ) -> Child:
        """Envoy before the public services; answers when it does. *kept* as in keep()."""
        edge = EdgeSettings(
            port=ports.edge,
            admin_port=ports.envoy_admin,
            jwks_path=jwks_path,
            services={name: [addresses[name]] for name in PUBLIC_SERVICES},
            access_log=str(self.logs / "access.log"),
            bench_target=self.options.bench_target,
        )
        write_edge_config(edge, self.data / "envoy.yaml")

        async def launch() -> Program:
            command = envoy_command(self.data / "envoy.yaml")
            return Program(await start_child("envoy", command, self.logs / "envoy.log"))

        if kept:
            return (await self.keep("envoy", launch)).child
        envoy = await launch()
        self.watch("envoy", envoy)
        return envoy.child

    async def edge_is_ready(self, envoy: Child, ports: MeshPorts) -> None:
        """Returns once Envoy has its listeners."""
        await until_ready(envoy, lambda: edge_ready(f"127.0.0.1:{ports.envoy_admin}"), "feedmesh up --port-base 9000")


async def until_ready(child: Child, answers: Callable[[], Awaitable[bool]], next_step: str) -> None:
    """Polls until *answers*. Raises CliError (exit 3) when the child ends before or is not ready in READY_TIMEOUT_S."""
    clock = SystemClock()
    give_up = clock.monotonic() + READY_TIMEOUT_S
    while not await answers():
        if child.exit_code is not None:
            raise ended(child)
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


def ended(child: Child) -> CliError:
    """The error of a part that ended by itself."""
    killed = child.exit_code == -signal.SIGKILL
    return CliError(
        f"{child.name} ended by itself ({child.why_it_ended()})",
        where=str(child.log),
        cause="it was killed from outside, or the machine ran out of memory" if killed else "the end of its log tells",
        next_step="feedmesh up",
        code=ExitCode.UNHEALTHY,
        detail=tail(child.log),
    )


async def status_answers(address: str) -> bool:
    """Whether the page /status at "host:port" answers."""
    try:
        status, _ = await get(address, "/status", timeout_s=2.0)
    except OSError:
        return False
    return status == 200


@dataclass(frozen=True)
class Keys:
    """Secrets of one data directory."""

    internal_key: str
    cursor_key: str
    jwks_path: Path

    @property
    def lease_name(self) -> str:
        """Under which services lease their worker numbers, whatever ports a start chooses.

        The supervisor vouches for it: it has the lock on the data directory, whose key nobody else has, ends what was
        left behind, and starts a service after the one before has ended.
        """
        return f"the mesh with key {hashlib.sha256(self.internal_key.encode()).hexdigest()[:16]}"


def keys_of(data: Path) -> Keys:
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
    return Keys(secrets["internal_key"], secrets["cursor_key"], DevIssuer.load_or_create(directory).jwks_path)
