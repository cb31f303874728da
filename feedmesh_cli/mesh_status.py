"""Asks a mesh how it is: its processes, its services' own page, Envoy's readiness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.loopback_http import get
from feedmesh_cli.mesh_file import Mesh
from foundation.events.unpublished import Unpublished


@dataclass(frozen=True, kw_only=True)
class ServicesStatus:
    """What the process of the services says on /status."""

    unpublished: Mapping[str, Unpublished | None] = field(default_factory=dict)
    """Service to what it has acknowledged and the log has not confirmed; None where it does not tell."""
    lag: Mapping[str, int] = field(default_factory=dict)
    """Consumer group to events it has not finished, upstream groups first."""
    services: Mapping[str, str] = field(default_factory=dict)
    """Service to the address it serves on."""
    unavailable: str = ""
    """Why there is no lag; empty where there is."""

    @property
    def to_publish(self) -> int:
        """How much is to be published: each event counts, each slot of uncounted ones, and who does not tell as one."""
        return sum(
            told.events + (1 if told.slots is None else told.slots) if told is not None else 1
            for told in self.unpublished.values()
        )

    @property
    def settled(self) -> bool:
        """Whether all that was acknowledged before the page was asked for has been published and handled."""
        return not (self.to_publish or self.unavailable or any(self.lag.values()))


async def read_status(mesh: Mesh) -> ServicesStatus:
    """The services' own page, lag and all. Raises CliError (exit 3) when it does not answer or cannot tell the lag."""
    found = await read_page(mesh)
    if found.unavailable:
        raise CliError(
            f"the mesh cannot tell how far it is behind: {found.unavailable}",
            where=f"{mesh.status}/status",
            cause="that part has ended, or is just coming back",
            next_step="feedmesh status",
            code=ExitCode.UNHEALTHY,
        )
    return found


async def read_page(mesh: Mesh) -> ServicesStatus:
    """What the services' own page tells, be it without the lag. Raises CliError (exit 3) when it does not answer."""
    address = mesh.status.split("://", 1)[1]
    try:
        _, body = await get(address, "/status", timeout_s=5.0)
        page = json.loads(body)
        return ServicesStatus(
            unpublished={service: told and Unpublished(**told) for service, told in page["unpublished"].items()},
            lag=page.get("lag", {}),
            services=page["services"],
            unavailable=page.get("unavailable", ""),
        )
    except (OSError, ValueError, KeyError) as fault:
        raise CliError(
            "the services do not answer",
            where=f"{mesh.status}/status",
            cause="their process is overloaded or has ended",
            next_step=f"tail {mesh.logs}/*.log",
            code=ExitCode.UNHEALTHY,
        ) from fault


async def edge_ready(envoy_admin: str) -> bool:
    """Whether Envoy has its listeners and clusters."""
    try:
        status, _ = await get(envoy_admin, "/ready", timeout_s=0.5)
    except OSError:
        return False
    return status == 200


@dataclass(frozen=True, kw_only=True)
class MeshStatus:
    """Everything `feedmesh status` tells."""

    healthy: bool
    edge: str
    data: str
    processes: Mapping[str, bool]
    """Part to whether it runs."""
    memory_mb: Mapping[str, int]
    """Part to its resident memory; none for one that does not run."""
    unpublished: Mapping[str, Unpublished | None]
    """Service to what it has acknowledged and the log has not confirmed; None where it does not tell."""
    lag: Mapping[str, int]
    problem: str
    """What is wrong beside processes that do not run; empty where nothing is."""


async def inspect_mesh(mesh: Mesh) -> MeshStatus:
    """The state of all parts; never raises for a part that is down."""
    processes = {name: process.alive() for name, process in mesh.processes.items()}
    memory_mb = {name: process.memory_mb() for name, process in mesh.processes.items() if processes[name]}
    problem = ""
    try:
        services = await read_page(mesh)
        if services.unavailable:
            problem = f"the mesh cannot tell how far it is behind: {services.unavailable}"
    except CliError as failure:
        services = ServicesStatus()
        problem = failure.what
    if not await edge_ready(mesh.envoy_admin):
        processes["envoy"] = False
    return MeshStatus(
        healthy=mesh.ready and all(processes.values()) and not problem,
        edge=mesh.edge,
        data=mesh.data,
        processes=processes,
        memory_mb=memory_mb,
        unpublished=services.unpublished,
        lag=services.lag,
        problem=problem,
    )


def as_text(told: Unpublished | None) -> str:
    """What a service has yet to publish, for people."""
    if told is None:
        return "does not tell how many events wait to be published"
    text = f"{told.events} events wait to be published"
    if told.slots is None:
        return f"{text}, and those of the process before it, not looked for yet"
    return f"{text}, and what {told.slots} sweep slots may hold beside them" if told.slots else text
