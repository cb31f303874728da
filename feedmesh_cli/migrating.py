"""Brings the stores and the log of a cluster to what this version of feedmesh needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from feedmesh_cli.engines.addresses import KEYSPACES, EngineAddresses
from foundation.cql.address import CqlAddress
from foundation.cql.migrations import Standing, migrate, migrations_of, standings
from foundation.events.kafka_address import KafkaAddress
from foundation.events.kafka_topics import Remedy, apply_topics, plan_topics
from foundation.model.clock import SystemClock


@dataclass(frozen=True)
class Step:
    """One migration or topic, and how it stands."""

    where: str
    what: str
    standing: str


@dataclass(frozen=True)
class Migrated:
    """What was done, and what was not."""

    applied: Mapping[str, Sequence[str]]
    """Service to migrations, "topics" to topics."""
    left: Sequence[str]
    """Differences that a person must decide about."""


LEFT = "left to you"
"""The standing of a topic that no command changes."""


async def migrate_all(engines: EngineAddresses) -> Migrated:
    """Apply what is pending. Raises Unavailable, FailedPrecondition."""
    applied: dict[str, list[str]] = {}
    for service in KEYSPACES:
        address = CqlAddress.parse(engines.store(service))
        names = await migrate(address, migrations_of(f"{service}.adapters"), SystemClock(), holder=f"pid {os.getpid()}")
        if names:
            applied[service] = names
    kafka = KafkaAddress.parse(engines.kafka)
    differences = await apply_topics(kafka.servers, security=kafka.security)
    made = [str(one) for one in differences if one.remedy is not Remedy.LEAVE]
    if made:
        applied["topics"] = made
    return Migrated(applied, [str(one) for one in differences if one.remedy is Remedy.LEAVE])


async def migration_steps(engines: EngineAddresses) -> list[Step]:
    """Every migration and topic and how it stands. Changes nothing. Raises Unavailable."""
    steps: list[Step] = []
    for service, keyspace in KEYSPACES.items():
        address = CqlAddress.parse(engines.store(service))
        for standing, number, name in await standings(address, migrations_of(f"{service}.adapters")):
            steps.append(Step(keyspace, f"{number:04}_{name}", standing.value))
    kafka = KafkaAddress.parse(engines.kafka)
    steps += [
        Step("kafka", str(difference), LEFT if difference.remedy is Remedy.LEAVE else Standing.PENDING.value)
        for difference in await plan_topics(kafka.servers, security=kafka.security)
    ]
    return steps
