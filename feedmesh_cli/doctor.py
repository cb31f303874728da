"""What this machine lacks to run a mesh, each finding with its fix."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from feedmesh_cli.engines.findings import Finding, look_at_engines
from feedmesh_cli.engines.jars import missing_jars
from feedmesh_cli.engines.java import find_java
from feedmesh_cli.failures import CliError
from feedmesh_cli.ports import DEFAULT_EDGE_PORT, holder, is_free

MEMORY_MB = {"embedded": 700, "cluster": 4_000}
"""What a profile was seen to use, with room."""
DISK_MB = {"embedded": 300, "cluster": 3_000}
OPEN_FILES = 4_096


async def examine(profile: str, data: Path | None, *, cassandra: str, kafka: str, redis: str) -> list[Finding]:
    """Everything that *profile* needs, and the engines that are named. Never raises."""
    findings = [_python(), _memory(profile), _disk(profile, data), _open_files(), _port(), _loopback(), _clock()]
    if profile == "cluster":
        findings += [_extra(), _java(), _jars()]
    return findings + await look_at_engines(cassandra=cassandra, kafka=kafka, redis=redis)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding.ok("Python", version)  # an older one does not get this far


def _memory(profile: str) -> Finding:
    import psutil

    free = psutil.virtual_memory().available // 2**20
    needed = MEMORY_MB[profile]
    if free >= needed:
        return Finding.ok("memory", f"{free} MB free, {needed} needed")
    return Finding.fault("memory", f"{free} MB free, {needed} needed", "end other programs, or add memory")


def _disk(profile: str, data: Path | None) -> Finding:
    place = data or Path(tempfile.gettempdir())
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // 2**20
    needed = DISK_MB[profile]
    if not os.access(place, os.W_OK):
        return Finding.fault("disk", f"{place} cannot be written", "name another directory: --data DIR")
    if free >= needed:
        return Finding.ok("disk", f"{free} MB free at {place}, {needed} needed")
    return Finding.fault("disk", f"{free} MB free at {place}, {needed} needed", "make room, or --data DIR elsewhere")


def _open_files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= OPEN_FILES:
        return Finding.ok("open files", f"limit {soft}")
    return Finding.warning("open files", f"limit {soft}", f"ulimit -n {min(hard, 65_536)}")


def _port() -> Finding:
    if is_free(DEFAULT_EDGE_PORT):
        return Finding.ok("port", f"{DEFAULT_EDGE_PORT} is free for Envoy")
    return Finding.warning(
        "port",
        f"{DEFAULT_EDGE_PORT} is held by {holder(DEFAULT_EDGE_PORT)}: Envoy gets another",
        "feedmesh up --port-base N for one of your choice",
    )


def _loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return Finding.ok("loopback", "127.0.0.1 can be listened on")
    except OSError as failure:
        return Finding.fault("loopback", str(failure), "allow programs to listen on 127.0.0.1")


def _clock() -> Finding:
    """Ids are times: a clock before their epoch mints none, and one that is not kept right steps back one day."""
    from foundation.model.clock import SystemClock
    from foundation.model.ids import EPOCH_MS

    now_ms = SystemClock().now_ms()
    if now_ms < EPOCH_MS:
        return Finding.fault("clock", f"{now_ms} ms is before the first id", "set the clock, run an NTP client")
    return Finding.ok("clock", f"{now_ms} ms")


def _extra() -> Finding:
    lacking = [name for name in ("cassandra", "confluent_kafka") if importlib.util.find_spec(name) is None]
    if not lacking:
        return Finding.ok("drivers", "scylla-driver and confluent-kafka are installed")
    return Finding.fault("drivers", f"missing: {', '.join(lacking)}", "uv sync --locked --inexact --extra cluster")


def _java() -> Finding:
    try:
        return Finding.ok("Java", find_java().found)
    except CliError as failure:
        return Finding.fault("Java", failure.cause, failure.next_step)


def _jars() -> Finding:
    missing = missing_jars(["kafka", "cassandra"])
    if not missing:
        return Finding.ok("jars", "all there")
    return Finding.warning("jars", f"{missing} will be downloaded at the first start", "feedmesh up --profile cluster")
