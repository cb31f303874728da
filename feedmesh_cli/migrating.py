"""Brings the stores and the log of a cluster to what this version of feedmesh needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from feedmesh_cli.engines.addresses import KEYSPACES, EngineAddresses
from foundation.cql.address import CqlAddress
from foundation.cql.migrations import Standing, migrate, migrations_of, standings
from foundation.events.kafka_address import KafkaAddress
from foundation.events.kafka_topics import apply_topics, plan_topics
from foundation.model.clock import SystemClock


@dataclass(frozen=True)
class Step:
    """One migration or topic, and how it stands."""

    where: str
    what: str
    standing: str


async def migrate_all(engines: EngineAddresses) -> Mapping[str, list[str]]:
    """Apply what is pending; service to migrations, "topics" to topics. Raises Unavailable, FailedPrecondition."""
    applied: dict[str, list[str]] = {}
    for service in KEYSPACES:
        address = CqlAddress.parse(engines.store(service))
        names = await migrate(address, migrations_of(f"{service}.adapters"), SystemClock(), holder=f"pid {os.getpid()}")
        if names:
            applied[service] = names
    kafka = KafkaAddress.parse(engines.kafka)
    made = await apply_topics(kafka.servers, security=kafka.security)
    if made:
        applied["topics"] = [str(one) for one in made]
    return applied


async def migration_steps(engines: EngineAddresses) -> list[Step]:
    """Every migration and topic and how it stands. Changes nothing. Raises Unavailable."""
    steps: list[Step] = []
    for service, keyspace in KEYSPACES.items():
        address = CqlAddress.parse(engines.store(service))
        for standing, number, name in await standings(address, migrations_of(f"{service}.adapters")):
            steps.append(Step(keyspace, f"{number:04}_{name}", standing.value))
    kafka = KafkaAddress.parse(engines.kafka)
    steps += [
        Step("kafka", str(difference), Standing.PENDING.value)
        for difference in await plan_topics(kafka.servers, security=kafka.security)
    ]
    return steps
