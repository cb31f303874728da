"""The cluster profile: Cassandra, Kafka, a Valkey cluster of three, and one process per service behind Envoy.

Engines start together, as they do not need each other; then the schema is brought up to date; then the services. What
ends by itself is started again: every part can do without every other for a while.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import fanout_worker.settings
import feed_svc.settings
import graph_svc.settings
import post_svc.settings
import rank_svc.settings
from feedmesh_cli.children import Child, start_child
from feedmesh_cli.consumer_groups import OUTBOXES
from feedmesh_cli.embedded_config import SERVICES
from feedmesh_cli.engines.addresses import KEYSPACES, EngineAddresses
from feedmesh_cli.engines.cassandra import CassandraServer
from feedmesh_cli.engines.findings import Verdict, look_at_engines, without_login
from feedmesh_cli.engines.jars import class_paths
from feedmesh_cli.engines.java import find_java
from feedmesh_cli.engines.kafka import KafkaServer
from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.loading import progress
from feedmesh_cli.loopback_http import get
from feedmesh_cli.mesh_file import Mesh, ProcessId
from feedmesh_cli.migrating import migrate_all
from feedmesh_cli.ports import ClusterPorts, free_ports
from feedmesh_cli.starting import Keys, Program, Starting, keys_of, status_answers, until_ready
from feedmesh_cli.status_page import status_page
from feedmesh_cli.valkey import ValkeyServer
from foundation.errors import DomainError
from foundation.events.unpublished import Unpublished
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.pages import serving_pages
from foundation.runtime.settings import changed, to_environment

TELLS_WITHIN_S = 1.0
"""How long a service may take to say how much of its own waits to be published."""


async def start_cluster(starting: Starting) -> Mesh:
    """Everything started and answering. Raises CliError."""
    _require_extra()
    options, data = starting.options, starting.data
    await _require_engines(starting)
    ports = starting.choose_ports(ClusterPorts)
    engines = EngineAddresses.of(options, ports)
    started = await _start_engines(starting, ports)
    keys = keys_of(data)
    try:
        migrated = await migrate_all(engines)
    except DomainError as failure:
        raise CliError(
            "the engines cannot be used as they are",
            where=failure.message,
            cause=failure.reason,
            next_step="feedmesh doctor",
            code=ExitCode.UNHEALTHY,
        ) from failure
    for text in migrated.left:
        starting.report(f"Kafka: {text}")
    addresses = {name: f"127.0.0.1:{getattr(ports, name)}" for name in SERVICES}
    more = dict(zip(_more_workers(options.fanout_workers), free_ports(options.fanout_workers - 1), strict=True))
    pages = {name: f"127.0.0.1:{getattr(ports, f'{name}_status')}" for name in SERVICES}
    pages |= {name: f"127.0.0.1:{port}" for name, port in more.items()}
    services = await _start_services(starting, ports, engines, keys, addresses, more)
    await _serve_status(starting, ports, engines, addresses, pages)
    envoy = await starting.start_edge(ports, keys.jwks_path, addresses, kept=True)
    for name, child in services.items():
        page = pages[name]
        await until_ready(child, lambda page=page: status_answers(page), "feedmesh doctor")  # type: ignore[misc]
    await starting.edge_is_ready(envoy, ports)
    parts: dict[str, Child] = {**started, **services, "envoy": envoy}
    return Mesh(
        data=str(data),
        temporary=options.temporary,
        profile="cluster",
        edge=f"http://127.0.0.1:{ports.edge}",
        envoy_admin=f"127.0.0.1:{ports.envoy_admin}",
        status=f"http://127.0.0.1:{ports.status}",
        redis=engines.redis,
        services=addresses,
        internal_key=keys.internal_key,
        new="graph_svc" in migrated.applied,
        engines={"cassandra": engines.cassandra, "kafka": engines.kafka},
        processes={
            "supervisor": ProcessId.of(os.getpid()),
            **{name: ProcessId.of(child.pid) for name, child in parts.items()},
        },
    )


async def _require_engines(starting: Starting) -> None:
    """Somebody else's engines can be used, as far as a look tells: nothing is started in vain. Raises CliError."""
    named = {name: getattr(starting.options, name) for name in ("cassandra", "kafka", "redis")}
    for finding in await look_at_engines(**named):
        if finding.verdict is Verdict.FAULT:
            raise CliError(
                f"{finding.what} cannot be used",
                where=without_login(named[finding.what.lower()]),
                cause=finding.found,
                next_step=finding.fix,
                code=ExitCode.UNHEALTHY,
            )


async def _start_engines(starting: Starting, ports: ClusterPorts) -> dict[str, Child]:
    """The engines that are not somebody else's, all at once. One that ends by itself is started again on its data."""
    options = starting.options
    parts: dict[str, Child] = {}
    work: list[Awaitable[Any]] = []
    wanted = [name for name in ("cassandra", "kafka") if not getattr(options, name)]
    if wanted:
        java = find_java().command
        with progress() as bar:
            paths = await class_paths(wanted, lambda done, total: bar.show("jars", done=done, total=total))

    async def launch_cassandra() -> CassandraServer:
        server = CassandraServer(java, paths["cassandra"])
        await server.launch(starting.data / "cassandra", ports.cassandra, ports.cassandra_storage)
        return server

    async def launch_kafka() -> KafkaServer:
        server = KafkaServer(java, paths["kafka"])
        await server.launch(starting.data / "kafka", ports.kafka, ports.kafka_controller)
        return server

    if "cassandra" in wanted:
        cassandra = await launch_cassandra()
        starting.watch("cassandra", cassandra, launch_cassandra)
        parts["cassandra"] = cassandra.child
        work.append(cassandra.ready())
    if "kafka" in wanted:
        kafka = await launch_kafka()
        starting.watch("kafka", kafka, launch_kafka)
        parts["kafka"] = kafka.child
        work.append(kafka.ready())
    if not options.redis:
        places = (ports.valkey, ports.valkey_2, ports.valkey_3)
        for number, port in enumerate(places, start=1):

            async def launch_valkey(number: int = number, port: int = port) -> ValkeyServer:
                server = ValkeyServer()
                await server.launch(starting.data / f"valkey-{number}", port, cluster=places)
                return server

            async def again(launch: Callable[[], Awaitable[ValkeyServer]] = launch_valkey) -> ValkeyServer:
                server = await launch()
                await server.writable()  # it also forgets its predecessor then
                return server

            valkey = await launch_valkey()
            starting.watch(f"valkey-{number}", valkey, again)
            parts[f"valkey-{number}"] = valkey.child
            work.append(valkey.writable())
    starting.report("waiting for the engines")
    await asyncio.gather(*work)
    return parts


async def _start_services(
    starting: Starting,
    ports: ClusterPorts,
    engines: EngineAddresses,
    keys: Keys,
    addresses: Mapping[str, str],
    more_workers: Mapping[str, int],
) -> dict[str, Child]:
    """*more_workers*: names of fan-out workers beside the first, to the ports of their pages."""
    options = starting.options

    def mesh(name: str, worker: int) -> MeshSettings:
        return MeshSettings(
            redis=engines.redis,
            log_url=engines.kafka,
            jwks_path=str(keys.jwks_path),
            internal_key=keys.internal_key,
            worker=worker,
            lease_name=keys.lease_name,
            engine=options.engine,  # type: ignore[arg-type]
            port=getattr(ports, name),
            status_port=getattr(ports, f"{name}_status"),
            graph_svc=addresses["graph_svc"],
            post_svc=addresses["post_svc"],
            rank_svc=addresses["rank_svc"],
        )

    stores = {service: engines.store(service) for service in KEYSPACES}
    key = keys.cursor_key
    settings = {
        "graph_svc": graph_svc.settings.Settings(
            mesh=mesh("graph_svc", 1), database_url=stores["graph_svc"], cursor_key=key
        ),
        "post_svc": post_svc.settings.Settings(
            mesh=mesh("post_svc", 2), database_url=stores["post_svc"], cursor_key=key
        ),
        "rank_svc": rank_svc.settings.Settings(
            mesh=mesh("rank_svc", 3), model_path=options.model, recommendations=options.recommendations
        ),
        "fanout_worker": fanout_worker.settings.Settings(mesh=mesh("fanout_worker", 4)),
        "feed_svc": feed_svc.settings.Settings(
            mesh=mesh("feed_svc", 5),
            database_url=stores["feed_svc"],
            cursor_key=key,
            recommendations=options.recommendations,
        ),
    }
    for number, (name, port) in enumerate(more_workers.items()):
        own = replace(mesh("fanout_worker", 16 + number), port=0, status_port=port)
        settings[name] = replace(settings["fanout_worker"], mesh=own)  # type: ignore[type-var]
    services: dict[str, Child] = {}
    for name, default in settings.items():
        told = changed(default, options.changes)

        async def launch(name: str = name, told: object = told) -> Program:
            command = [sys.executable, "-m", name.partition("-")[0]]
            return Program(
                await start_child(name, command, starting.logs / f"{name}.log", environment=to_environment(told))
            )

        services[name] = (await starting.keep(name, launch)).child
    return services


def _more_workers(count: int) -> list[str]:
    return [f"fanout_worker-{number}" for number in range(2, count + 1)]


async def _serve_status(
    starting: Starting,
    ports: ClusterPorts,
    engines: EngineAddresses,
    addresses: Mapping[str, str],
    pages: Mapping[str, str],
) -> None:
    """The supervisor's page: what waits to be published, what the groups are behind, the metrics of all services."""
    from foundation.runtime.resources import open_log

    log = await starting.stack.enter_async_context(open_log(MeshSettings(log_url=engines.kafka)))

    async def waiting() -> Mapping[str, Unpublished | None]:
        told = await asyncio.gather(*(_unpublished_of(service, pages[service]) for service in OUTBOXES))
        return dict(zip(OUTBOXES, told, strict=True))

    async def status() -> tuple[str, bytes]:
        return await status_page(addresses, waiting, log)

    async def metrics() -> tuple[str, bytes]:
        return "text/plain; version=0.0.4", await _metrics_of(pages)

    await starting.stack.enter_async_context(serving_pages(ports.status, {"/status": status, "/metrics": metrics}))


async def _unpublished_of(service: str, page: str) -> Unpublished | None:
    """What *service* says on its *page*; None where it does not answer."""
    try:
        _, body = await get(page, "/status", timeout_s=TELLS_WITHIN_S)
        return Unpublished(**json.loads(body)["unpublished"][service])
    except (OSError, ValueError, KeyError):
        return None


async def _metrics_of(pages: Mapping[str, str]) -> bytes:
    """Every service's metrics on one page: each sample says whose it is."""
    lines: list[str] = []
    described: set[str] = set()
    for service, address in pages.items():
        try:
            _, body = await get(address, "/metrics", timeout_s=2.0)
        except OSError:
            continue
        for line in body.decode().splitlines():
            if line.startswith("#"):
                if line not in described:
                    described.add(line)
                    lines.append(line)
                continue
            name, brace, rest = line.partition("{")
            if brace:
                lines.append(f'{name}{{service="{service}",{rest}')
            else:
                name, _, value = line.partition(" ")
                lines.append(f'{name}{{service="{service}"}} {value}')
    return ("\n".join(lines) + "\n").encode()


def _require_extra() -> None:
    try:
        import cassandra  # noqa: F401
        import confluent_kafka  # noqa: F401
    except ImportError as missing:
        raise CliError(
            "the cluster profile needs the extra feedmesh[cluster]",
            cause=str(missing),
            next_step="make setup EXTRA=cluster, or: uv sync --locked --inexact --extra cluster",
            code=ExitCode.USAGE,
        ) from missing
