"""Asks a mesh how it is: its processes, its services' own page, Envoy's readiness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.loopback_http import get
from feedmesh_cli.mesh_file import Mesh


@dataclass(frozen=True, kw_only=True)
class ServicesStatus:
    """What the process of the services says on /status."""

    lag: Mapping[str, int] = field(default_factory=dict)
    """Consumer group to events it has not finished, upstream groups first."""
    services: Mapping[str, str] = field(default_factory=dict)
    """Service to the address it serves on."""


async def read_status(mesh: Mesh) -> ServicesStatus:
    """The services' own page. Raises CliError (exit 3) when it does not answer."""
    address = mesh.status.split("://", 1)[1]
    try:
        _, body = await get(address, "/status", timeout_s=5.0)
        page = json.loads(body)
        if "unavailable" in page:
            raise CliError(
                f"the mesh cannot tell how far it is behind: {page['unavailable']}",
                where=f"{mesh.status}/status",
                cause="that part has ended, or is just coming back",
                next_step="feedmesh status",
                code=ExitCode.UNHEALTHY,
            )
        return ServicesStatus(lag=page["lag"], services=page["services"])
    except (OSError, ValueError, KeyError) as fault:
        raise CliError(
            "the services do not answer",
            where=f"{mesh.status}/status",
            cause="their process is overloaded or has ended",
            next_step=f"tail {mesh.directory / 'logs/services.log'}",
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
    lag: Mapping[str, int]
    problem: str
    """What is wrong beside processes that do not run; empty where nothing is."""


async def inspect_mesh(mesh: Mesh) -> MeshStatus:
    """The state of all parts; never raises for a part that is down."""
    processes = {name: process.alive() for name, process in mesh.processes.items()}
    memory_mb = {name: process.memory_mb() for name, process in mesh.processes.items() if processes[name]}
    problem = ""
    try:
        services = await read_status(mesh)
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
        lag=services.lag,
        problem=problem,
    )
