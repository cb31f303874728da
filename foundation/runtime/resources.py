"""The resources that services of one process share: the Redis client, what it knows of hot keys, the event log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from foundation.events.kafka_address import KafkaAddress
from foundation.events.port import EventLog
from foundation.events.sql_log import LOG_TABLES, SqlEventLog
from foundation.model.clock import SystemClock
from foundation.redis.client import RedisCluster, connect
from foundation.redis.hot_keys import HotKeys
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.shared import shared
from foundation.sql.database import open_database


def open_redis(mesh: MeshSettings) -> AbstractAsyncContextManager[RedisCluster]:
    """The cluster that *mesh* names."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[RedisCluster]:
        address = mesh.redis_address()
        redis = await connect(address.nodes, access=address.access, scripts=mesh.redis_scripts)
        try:
            yield redis
        finally:
            await redis.close()

    return shared("redis", mesh.redis, opened)


def open_hot_keys(mesh: MeshSettings) -> AbstractAsyncContextManager[HotKeys]:
    """The hot keys of the cluster that *mesh* names."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[HotKeys]:
        async with open_redis(mesh) as redis, HotKeys(redis, SystemClock()).running() as hot_keys:
            yield hot_keys

    return shared("hot keys", mesh.redis, opened)


def open_log(mesh: MeshSettings) -> AbstractAsyncContextManager[EventLog]:
    """The event log that *mesh* names."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[EventLog]:
        if mesh.log_url.startswith("kafka:"):
            from foundation.events.kafka_log import kafka_log  # noqa: PLC0415 - needs the extra `cluster`

            address = KafkaAddress.parse(mesh.log_url)
            async with kafka_log(address.servers, SystemClock(), security=address.security) as log:
                yield log
        else:
            async with open_database(mesh.log_url, LOG_TABLES) as database:
                yield SqlEventLog(database, SystemClock())

    return shared("log", mesh.log_url, opened)
