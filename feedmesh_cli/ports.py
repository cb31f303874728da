"""Picks the ports of a mesh on loopback, and tells who holds one that is taken."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TypeVar

from feedmesh_cli.failures import CliError, ExitCode
from foundation.model.clock import SystemRandomness
from foundation.runtime.settings import from_environment

DEFAULT_EDGE_PORT = 8080
PORTS_PER_MESH = 10
"""The span of an embedded mesh with --port-base; one with engines of its own takes three of them."""
PORT_RANGE = "22000-31999"
"""Ports are chosen from these; Linux gives outgoing connections those from 32,768 on."""


@dataclass(frozen=True, kw_only=True)
class MeshPorts:
    """One port for each listener; with --port-base they follow each other in this order."""

    edge: int
    envoy_admin: int
    status: int
    valkey: int
    graph_svc: int
    post_svc: int
    rank_svc: int
    fanout_worker: int
    feed_svc: int


@dataclass(frozen=True, kw_only=True)
class ClusterPorts(MeshPorts):
    """Those of a mesh with a process per service and engines of its own."""

    valkey_2: int
    valkey_3: int
    kafka: int
    kafka_controller: int
    cassandra: int
    cassandra_storage: int
    graph_svc_status: int
    post_svc_status: int
    rank_svc_status: int
    fanout_worker_status: int
    feed_svc_status: int


@dataclass(frozen=True)
class _Choice:
    """What ports are chosen from, from the environment: for whoever starts several meshes at the same moment."""

    port_range: str = ""
    """FEEDMESH_PORT_RANGE, "first-last". Empty: PORT_RANGE, and 8080 for the edge of a mesh."""

    def ports(self) -> range:
        first, _, last = (self.port_range or PORT_RANGE).partition("-")
        if not (first.isdecimal() and last.isdecimal() and 1024 <= int(first) <= int(last) <= 65_535):
            raise CliError(
                f"FEEDMESH_PORT_RANGE={self.port_range!r} is no range of ports",
                cause='it takes the form "first-last", from 1024 to 65535',
                next_step=f"export FEEDMESH_PORT_RANGE={PORT_RANGE}, or unset it",
                code=ExitCode.USAGE,
            )
        return range(int(first), int(last) + 1)


P = TypeVar("P", bound=MeshPorts)


def choose_ports(port_base: int | None, kind: type[P]) -> P:
    """The ports of a new mesh.

    With *port_base* exactly those that follow it, or CliError; else free ones: 8080 for the edge when it is free and no
    FEEDMESH_PORT_RANGE is given. A port is free when it can be bound now; another program may still take it before we
    do.
    """
    names = [field.name for field in fields(kind)]
    span = -(-len(names) // PORTS_PER_MESH) * PORTS_PER_MESH
    if port_base is None:
        given = from_environment(_Choice).port_range
        edge = DEFAULT_EDGE_PORT if not given and is_free(DEFAULT_EDGE_PORT) else None
        rest = free_ports(len(names) - (edge is not None))
        return kind(**dict(zip(names, ([edge] if edge else []) + rest, strict=True)))
    if not 1024 <= port_base <= 65_535 - span:
        raise CliError(
            f"--port-base {port_base} is out of range",
            cause=f"a mesh takes {span} ports from its base on",
            next_step=f"choose one from 1024 to {65_535 - span}",
            code=ExitCode.USAGE,
        )
    ports = kind(**{name: port_base + place for place, name in enumerate(names)})
    for name in names:
        port = getattr(ports, name)
        if not is_free(port):
            raise CliError(
                f"port {port} is taken",
                where=f"127.0.0.1:{port}, wanted for {name} by --port-base {port_base}",
                cause=f"held by {holder(port)}",
                next_step=f"feedmesh up --port-base {_next_free_base(port_base, span)}",
            )
    return ports


@contextmanager
def holding(port: int) -> Iterator[None]:
    """Keeps *port* of loopback from being found free, while a server that shares ports may listen on it.

    Envoy is such a server: of two meshes that chose the same port at once each would get some of the other's requests.
    Raises OSError when somebody was faster.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", port))  # it never listens: connections go to who does
        yield


def is_free(port: int) -> bool:
    """Whether *port* of loopback can be bound now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on *port*: "name (pid 123)", as far as this user may know."""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "a process this user may not see"
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                break
    return "a process this user may not see"


def _next_free_base(base: int, span: int) -> int:
    candidate = base
    while candidate + 2 * span <= 65_535:
        candidate += span
        if all(is_free(candidate + place) for place in range(span)):
            return candidate
    return DEFAULT_EDGE_PORT


def free_ports(count: int) -> list[int]:
    """Free ports that no outgoing connection takes by chance before they are used: below the range of those."""
    chance = SystemRandomness()
    ports = from_environment(_Choice).ports()
    found: list[int] = []
    if count == 0:
        return found
    for _ in range(100 * count):
        port = ports[int.from_bytes(chance.token_bytes(4)) % len(ports)]
        if port not in found and is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise CliError(
        f"no {count} free ports between {ports[0]} and {ports[-1]}",
        cause="other programs listen on nearly all of them",
        next_step="name a base of your own with --port-base",
    )
