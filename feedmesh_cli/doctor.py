"""What this machine lacks to run a mesh, each finding with its fix."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from feedmesh_cli.engines.jars import missing_jars
from feedmesh_cli.engines.java import find_java
from feedmesh_cli.failures import CliError
from feedmesh_cli.ports import DEFAULT_EDGE_PORT, holder, is_free

MEMORY_MB = {"embedded": 700, "cluster": 4_000}
"""What a profile was seen to use, with room."""
DISK_MB = {"embedded": 300, "cluster": 3_000}
OPEN_FILES = 4_096


class Verdict(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """A mesh runs, but not as well as it could."""
    FAULT = "fault"
    """A mesh does not run."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    found: str
    fix: str = ""

    def as_data(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def as_text(self) -> str:
        """One line, and one more where something is to be done."""
        line = f"  {self.verdict.value:<8} {self.what:<14} {self.found}"
        return f"{line}\n           fix: {self.fix}" if self.fix else line


async def examine(profile: str, data: Path | None, *, cassandra: str, kafka: str, redis: str) -> list[Finding]:
    """Everything that *profile* needs, and the engines that are named. Never raises."""
    findings = [_python(), _memory(profile), _disk(profile, data), _open_files(), _port(), _loopback(), _clock()]
    if profile == "cluster":
        findings += [_extra(), _java(), _jars()]
    engines: list[tuple[str, str, Callable[[str], Awaitable[Finding]]]] = [
        ("cassandra", cassandra, _cassandra),
        ("kafka", kafka, _kafka),
        ("redis", redis, _redis),
    ]
    for _, address, look in engines:
        if address:
            findings.append(await look(address))
    return findings


def _ok(what: str, found: str) -> Finding:
    return Finding(what, Verdict.OK, found)


def _warning(what: str, found: str, fix: str) -> Finding:
    return Finding(what, Verdict.WARNING, found, fix)


def _fault(what: str, found: str, fix: str) -> Finding:
    return Finding(what, Verdict.FAULT, found, fix)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return _ok("Python", version)  # an older one does not get this far


def _memory(profile: str) -> Finding:
    import psutil

    free = psutil.virtual_memory().available // 2**20
    needed = MEMORY_MB[profile]
    if free >= needed:
        return _ok("memory", f"{free} MB free, {needed} needed")
    return _fault("memory", f"{free} MB free, {needed} needed", "end other programs, or add memory")


def _disk(profile: str, data: Path | None) -> Finding:
    place = data or Path(tempfile.gettempdir())
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // 2**20
    needed = DISK_MB[profile]
    if not os.access(place, os.W_OK):
        return _fault("disk", f"{place} cannot be written", "name another directory: --data DIR")
    if free >= needed:
        return _ok("disk", f"{free} MB free at {place}, {needed} needed")
    return _fault("disk", f"{free} MB free at {place}, {needed} needed", "make room, or --data DIR elsewhere")


def _open_files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= OPEN_FILES:
        return _ok("open files", f"limit {soft}")
    return _warning("open files", f"limit {soft}", f"ulimit -n {min(hard, 65_536)}")


def _port() -> Finding:
    if is_free(DEFAULT_EDGE_PORT):
        return _ok("port", f"{DEFAULT_EDGE_PORT} is free for Envoy")
    return _warning(
        "port",
        f"{DEFAULT_EDGE_PORT} is held by {holder(DEFAULT_EDGE_PORT)}: Envoy gets another",
        "feedmesh up --port-base N for one of your choice",
    )


def _loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return _ok("loopback", "127.0.0.1 can be listened on")
    except OSError as failure:
        return _fault("loopback", str(failure), "allow programs to listen on 127.0.0.1")


def _clock() -> Finding:
    """Ids are times: a clock before their epoch mints none, and one that is not kept right steps back one day."""
    from foundation.model.clock import SystemClock
    from foundation.model.ids import EPOCH_MS

    now_ms = SystemClock().now_ms()
    if now_ms < EPOCH_MS:
        return _fault("clock", f"{now_ms} ms is before the first id", "set the clock, run an NTP client")
    return _ok("clock", f"{now_ms} ms")


def _extra() -> Finding:
    lacking = [name for name in ("cassandra", "confluent_kafka") if importlib.util.find_spec(name) is None]
    if not lacking:
        return _ok("drivers", "scylla-driver and confluent-kafka are installed")
    return _fault("drivers", f"missing: {', '.join(lacking)}", "uv sync --locked --inexact --extra cluster")


def _java() -> Finding:
    try:
        return _ok("Java", find_java().found)
    except CliError as failure:
        return _fault("Java", failure.cause, failure.next_step)


def _jars() -> Finding:
    missing = missing_jars(["kafka", "cassandra"])
    if not missing:
        return _ok("jars", "all there")
    return _warning("jars", f"{missing} will be downloaded at the first start", "feedmesh up --profile cluster")


async def _cassandra(url: str) -> Finding:
    from feedmesh_cli.engines.addresses import KEYSPACES, with_scheme
    from foundation.cql.address import CqlAddress
    from foundation.cql.migrations import Standing, migrations_of, standings
    from foundation.errors import DomainError

    try:
        pending = 0
        for service, keyspace in KEYSPACES.items():
            address = CqlAddress.parse(f"{with_scheme('cassandra', url).rstrip('/')}/{keyspace}")
            for standing, number, name in await standings(address, migrations_of(f"{service}.adapters")):
                if standing in (Standing.UNKNOWN, Standing.CHANGED):
                    found = f"{keyspace}: {number:04}_{name} is {standing.value}"
                    return _fault("Cassandra", found, "run the version of feedmesh that made it, or newer")
                pending += standing is Standing.PENDING
    except ValueError as fault:
        return _fault("Cassandra", str(fault), "--cassandra host:port,…")
    except DomainError as failure:
        fix = {"STORE_LOGIN_REFUSED": "check user and password: --cassandra user:password@host:port"}
        return _fault("Cassandra", failure.message, fix.get(failure.reason, "check the address, and that it is up"))
    return _ok("Cassandra", f"answers; {pending} migrations are pending" if pending else "answers, up to date")


async def _kafka(url: str) -> Finding:
    from feedmesh_cli.engines.addresses import with_scheme
    from foundation.errors import DomainError
    from foundation.events.kafka_address import KafkaAddress
    from foundation.events.kafka_topics import plan_topics

    try:
        address = KafkaAddress.parse(with_scheme("kafka", url))
        differences = await plan_topics(address.servers, security=address.security)
    except ValueError as fault:
        return _fault("Kafka", str(fault), "--kafka host:port,…")
    except DomainError as failure:
        return _fault("Kafka", failure.message, "check the address and login, and that it is up")
    if differences:
        return _warning("Kafka", "; ".join(map(str, differences)), "feedmesh migrate up")
    return _ok("Kafka", "answers, all topics as they should be")


async def _redis(address: str) -> Finding:
    from foundation.errors import DomainError
    from foundation.redis.client import connect
    from foundation.runtime.mesh import MeshSettings

    try:
        where = MeshSettings(redis=address).redis_address()
        client = await connect(where.nodes, access=where.access, timeout_s=2.0)
    except (OSError, ValueError) as fault:
        return _fault("Redis", str(fault), "--redis host:port,…")
    except DomainError as failure:
        return _fault("Redis", failure.message, "check the address, and that it runs in cluster mode")
    await client.close()
    return _ok("Redis", "answers as a cluster")
