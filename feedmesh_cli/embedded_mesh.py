"""The embedded profile: Valkey, one process with every service, Envoy; each needs the one before."""

from __future__ import annotations

import os
import sys

from feedmesh_cli.children import start_child
from feedmesh_cli.embedded_config import SERVICES, EmbeddedConfig
from feedmesh_cli.mesh_file import Mesh, ProcessId
from feedmesh_cli.ports import MeshPorts
from feedmesh_cli.starting import GRACE_S, Program, Starting, keys_of, status_answers, until_ready
from feedmesh_cli.valkey import ValkeyServer


async def start_embedded(starting: Starting) -> Mesh:
    """Everything started and answering."""
    options, data = starting.options, starting.data
    ports = starting.choose_ports(MeshPorts)
    new = not (data / "graph.db").exists()

    services = await start_child(
        "services", [sys.executable, "-m", "feedmesh_cli.embedded"], starting.logs / "services.log", pipe=True
    )
    starting.watch("services", Program(services))

    valkey = ValkeyServer()
    await valkey.launch(data / "valkey", ports.valkey)
    starting.watch("valkey", valkey)

    keys = keys_of(data)
    # Services end before the Valkey they write to; the first callback is for a Valkey that does not start.
    starting.stack.push_async_callback(services.stop, grace_s=GRACE_S)
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
        lease_name=keys.lease_name,
        model_path=options.model,
        recommendations=options.recommendations,
        changes=options.changes,
    )
    await services.tell(config.to_line())
    status = f"127.0.0.1:{ports.status}"
    await until_ready(services, lambda: status_answers(status), "feedmesh up --engine grpcio")

    addresses = {name: f"127.0.0.1:{port}" for name, port in service_ports.items()}
    envoy = await starting.start_edge(ports, keys.jwks_path, addresses)
    await valkey.writable()
    await starting.edge_is_ready(envoy, ports)
    return Mesh(
        data=str(data),
        temporary=options.temporary,
        profile="embedded",
        edge=f"http://127.0.0.1:{ports.edge}",
        envoy_admin=f"127.0.0.1:{ports.envoy_admin}",
        status=f"http://{status}",
        redis=f"127.0.0.1:{ports.valkey}",
        services=addresses,
        internal_key=keys.internal_key,
        new=new,
        processes={
            "supervisor": ProcessId.of(os.getpid()),
            "valkey": ProcessId.of(valkey.pid),
            "services": ProcessId.of(services.pid),
            "envoy": ProcessId.of(envoy.pid),
        },
    )
