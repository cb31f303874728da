"""The ceiling: an RPC that does nothing and answers as many bytes as the measured one, behind the same Envoy.

`python -m bench.noop PORT BYTES` serves /feedmesh.bench.Noop/Get on 127.0.0.1 with the engine of the services.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2
from pygrpc_native.aio import Server

from foundation.runtime.run import watch_signals


async def serve(port: int, answer: bytes) -> None:
    """Answer every Get with *answer* until SIGTERM."""

    async def get(_: bytes, __: Any) -> bytes:
        return answer

    async def check(_: bytes, __: Any) -> bytes:
        return bytes(health_pb2.HealthCheckResponse(status=1).SerializeToString())

    server = Server(io_threads=1)
    server.add_registered_method_handlers("feedmesh.bench.Noop", {"Get": grpc.unary_unary_rpc_method_handler(get)})
    server.add_registered_method_handlers(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stopping = asyncio.Event()
    watch_signals(stopping)
    await stopping.wait()
    await server.stop(1.0)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), b"\x0a" * int(sys.argv[2])))
