"""A service runs alone as `python -m`, with the code and the composition of the embedded mesh."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feedmesh_cli.ports import free_ports
from foundation.rpc.tokens import DevIssuer
from tests.kit.eventually import eventually


@pytest.mark.parametrize("engine", ["native", "grpcio"])
@pytest.mark.parametrize("service", ["graph_svc", "post_svc", "rank_svc", "feed_svc", "fanout_worker"])
async def test_a_service_starts_serves_and_drains_alone(service: str, engine: str, valkey: int, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    issuer = DevIssuer.load_or_create(tmp_path)
    environment = {
        **os.environ,
        "FEEDMESH_REDIS": f"127.0.0.1:{valkey}",
        "FEEDMESH_LOG_URL": f"sqlite:///{tmp_path}/log.db",
        "FEEDMESH_DATABASE_URL": f"sqlite:///{tmp_path}/{service}.db",
        "FEEDMESH_JWKS_PATH": str(issuer.jwks_path),
        "FEEDMESH_INTERNAL_KEY": "an internal key of a test",
        "FEEDMESH_CURSOR_KEY": "00" * 32,
        "FEEDMESH_PORT": str(port),
        "FEEDMESH_ENGINE": engine,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", service, env=environment)
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)

            async def serving() -> bool:
                try:
                    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                except aio.AioRpcError:
                    return False
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            await eventually(serving, timeout_s=20)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_wrong_settings_are_all_told_at_once() -> None:
    environment = {**os.environ, "FEEDMESH_PORT": "many", "FEEDMESH_ENGINE": "steam"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rank_svc", env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        _, told = await process.communicate()
    assert process.returncode == 2
    assert b"FEEDMESH_PORT" in told
    assert b"native, grpcio" in told
