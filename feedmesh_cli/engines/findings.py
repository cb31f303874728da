"""Looks at somebody else's engines: whether each answers, lets us in, and holds what this version understands."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from feedmesh_cli.engines.addresses import KEYSPACES, EngineAddresses, with_scheme
from foundation.errors import DomainError

REDIS_TIMEOUT_S = 2.0
WITHIN_S = 40.0
"""Of all looks together, which go on at the same time: an engine may accept a connection and never answer."""


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

    @classmethod
    def ok(cls, what: str, found: str) -> Finding:
        """All is well."""
        return cls(what, Verdict.OK, found)

    @classmethod
    def warning(cls, what: str, found: str, fix: str) -> Finding:
        """It runs; *fix* makes it better."""
        return cls(what, Verdict.WARNING, found, fix)

    @classmethod
    def fault(cls, what: str, found: str, fix: str) -> Finding:
        """It does not run before *fix* is done."""
        return cls(what, Verdict.FAULT, found, fix)


async def look_at_engines(*, cassandra: str, kafka: str, redis: str) -> list[Finding]:
    """A finding for each engine that is named, within WITHIN_S. Changes nothing on Kafka and Redis. Never raises."""
    looks = [
        (name, address, look)
        for name, address, look in (
            ("Cassandra", cassandra, _cassandra),
            ("Kafka", kafka, _kafka),
            ("Redis", redis, _redis),
        )
        if address
    ]

    async def in_time(name: str, address: str, look: Any) -> Finding:
        try:
            async with asyncio.timeout(WITHIN_S):
                found: Finding = await look(address)
                return found
        except TimeoutError:
            fix = "check that it is up and that the port is its own"
            return Finding.fault(name, f"{without_login(address)} accepts and does not answer in {WITHIN_S:.0f} s", fix)

    return list(await asyncio.gather(*(in_time(*look) for look in looks)))


def without_login(url: str) -> str:
    """The hosts of an address, for messages."""
    return url.rpartition("://")[2].rpartition("@")[2].partition("?")[0]


async def _cassandra(url: str) -> Finding:
    from foundation.cql.address import CqlAddress
    from foundation.cql.migrations import Standing, migrations_of, standings

    engines = EngineAddresses(cassandra=with_scheme("cassandra", url), kafka="", redis="")
    fixes = {
        Standing.UNKNOWN: "run the version of feedmesh that made it, or newer",
        Standing.CHANGED: "run the version of feedmesh that applied it; a change goes into a new migration",
    }
    try:
        pending = 0
        for service in KEYSPACES:
            address = CqlAddress.parse(engines.store(service))
            for standing, number, name in await standings(address, migrations_of(f"{service}.adapters")):
                if standing in fixes:
                    found = f"{address.shown}: {number:04}_{name} is {standing.value}"
                    return Finding.fault("Cassandra", found, fixes[standing])
                pending += standing is Standing.PENDING
    except (OSError, ValueError) as fault:
        return Finding.fault("Cassandra", str(fault), "--cassandra host:port,…")
    except DomainError as failure:
        fix = {"STORE_LOGIN_REFUSED": "check user and password: --cassandra user:password@host:port"}
        return Finding.fault(
            "Cassandra", failure.message, fix.get(failure.reason, "check the address, and that it is up")
        )
    return Finding.ok("Cassandra", f"answers; {pending} migrations are pending" if pending else "answers, up to date")


async def _kafka(url: str) -> Finding:
    from foundation.events.kafka_address import KafkaAddress
    from foundation.events.kafka_topics import Remedy, plan_topics

    try:
        address = KafkaAddress.parse(with_scheme("kafka", url))
        differences = await plan_topics(address.servers, security=address.security)
    except ValueError as fault:
        return Finding.fault("Kafka", str(fault), "--kafka host:port,…")
    except DomainError as failure:
        where = without_login(url)
        if failure.reason == "LOG_LOGIN_REFUSED":
            fix = "check user, password and mechanism: --kafka user:password@host:port?mechanism=PLAIN"
            return Finding.fault("Kafka", f"{where} refuses this user or password", fix)
        why = f"{where} does not answer: {failure.metadata.get('cause', failure.reason)}"
        return Finding.fault("Kafka", why, "check the address, that it is up, and whether it wants a login or TLS")
    if not differences:
        return Finding.ok("Kafka", "answers, all topics as they should be")
    yours = [str(one) for one in differences if one.remedy is Remedy.LEAVE]
    ours = [str(one) for one in differences if one.remedy is not Remedy.LEAVE]
    # What is not ours to put right comes first, and its text says what can be done.
    fix = "see there; nothing changes the number by itself" if yours else "feedmesh migrate up"
    return Finding.warning(
        "Kafka", "; ".join(yours + ours), f"{fix}; then feedmesh migrate up" if yours and ours else fix
    )


async def _redis(address: str) -> Finding:
    from foundation.redis.address import RedisAddress
    from foundation.redis.client import connect

    try:
        where = RedisAddress.parse(address)
        client = await connect(where.nodes, access=where.access, timeout_s=REDIS_TIMEOUT_S)
    except (OSError, ValueError) as fault:
        return Finding.fault("Redis", str(fault), "--redis host:port,…")
    except DomainError as failure:
        refused = any(word in failure.message for word in ("NOAUTH", "WRONGPASS", "NOPERM", "AUTH"))
        login = "check user and password: --redis redis://user:password@host:port"
        found = f"{without_login(address)}: {failure.message}"
        return Finding.fault(
            "Redis", found, login if refused else "check the address, that it is up, and that it runs in cluster mode"
        )
    await client.close()
    return Finding.ok("Redis", "answers as a cluster")
