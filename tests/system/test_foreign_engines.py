"""Engines that somebody else runs, with a login: used like our own, and told apart when they are wrong or hurt."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not declared as exported

from feedmesh_cli.engines.findings import Finding, Verdict, look_at_engines
from feedmesh_cli.ports import free_ports
from foundation.cql.address import CqlAddress
from foundation.cql.session import open_cql
from foundation.errors import Unavailable
from foundation.events.kafka_address import KafkaAddress
from foundation.events.kafka_log import client_settings
from foundation.events.port import POSTS_CREATED
from foundation.model.clock import SystemClock
from tests.kit.cassandra import OwnCassandra
from tests.kit.eventually import eventually
from tests.kit.kafka import KafkaBroker, Kafkas
from tests.kit.mesh import FEEDMESH, running_mesh
from tests.kit.valkey import ValkeyCluster, Valkeys, ask

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.timeout(240)]

PASSWORD = "geheim"
LOGIN = {
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "listener.name.plaintext.plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'username="feed" password="{PASSWORD}" user_feed="{PASSWORD}";'
    ),
}


@dataclass(frozen=True)
class Engines:
    """Hosts, without a login."""

    cassandra: str
    kafka: str
    redis: str

    def named(self, password: str = PASSWORD) -> dict[str, str]:
        return {
            "cassandra": f"cassandra:{'cassandra' if password == PASSWORD else password}@{self.cassandra}",
            "kafka": f"feed:{password}@{self.kafka}?mechanism=PLAIN",
            "redis": f"redis://:{password}@{self.redis}",
        }

    def options(self, *names: str) -> list[str]:
        return [part for name in names for part in (f"--{name}", self.named()[name])]


@pytest.fixture(scope="module")
def engines(valkeys: Valkeys, kafkas: Kafkas, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """One of each; all want a login."""
    cassandra = OwnCassandra(
        valkeys, tmp_path_factory.mktemp("cassandra"), {"authenticator": {"class_name": "PasswordAuthenticator"}}
    )
    broker = KafkaBroker(kafkas, tmp_path_factory.mktemp("kafka"), LOGIN)
    valkey = ValkeyCluster(valkeys, tmp_path_factory.mktemp("valkey"), 3)
    try:
        kafkas.call(broker.started())
        for port in valkey.ports:
            assert ask(port, "CONFIG", "SET", "requirepass", PASSWORD) == b"OK"
        hosts = ",".join(f"{host}:{port}" for host, port in valkey.addresses)
        made = Engines(cassandra.address, broker.servers, hosts)
        asyncio.run(let_in(made))
        yield made
    finally:
        valkey.stop()
        kafkas.call(broker.stopped())
        cassandra.stop()


def keyspace_of(engines: Engines, keyspace: str) -> CqlAddress:
    return CqlAddress.parse(f"cassandra://{engines.named()['cassandra']}/{keyspace}")


async def let_in(engines: Engines) -> None:
    """Cassandra makes its first user a while after it answers."""

    async def inside() -> bool:
        try:
            async with open_cql(keyspace_of(engines, "system"), keyspace=False):
                return True
        except Unavailable:
            return False

    await eventually(inside, timeout_s=60, every_s=0.5)


def feedmesh(*arguments: str, exit_code: int = 0) -> Any:
    done = subprocess.run([*FEEDMESH, *arguments, "--json"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return json.loads(done.stdout)


def refused_up(data: Path, *options: str) -> dict[str, Any]:
    """What `up` says that fails: in time, and with no process left."""
    began = SystemClock().monotonic()
    told: dict[str, Any] = feedmesh("up", "--profile", "cluster", "--data", str(data), *options, exit_code=3)
    assert SystemClock().monotonic() - began < 60
    assert {"where", "cause", "next"} <= set(told)
    strays = [one.pid for one in psutil.process_iter(["cmdline"]) if str(data) in " ".join(one.info["cmdline"] or ())]
    assert [pid for pid in strays if pid != os.getpid()] == []
    return told


async def faults(**named: str) -> dict[str, Finding]:
    found = await look_at_engines(**{"cassandra": "", "kafka": "", "redis": "", **named})
    return {one.what: one for one in found if one.verdict is Verdict.FAULT}


async def test_a_wrong_address_is_told_for_each_engine() -> None:
    places = dict(zip(("cassandra", "kafka", "redis"), (f"127.0.0.1:{port}" for port in free_ports(3)), strict=True))
    found = await faults(**places)
    for name, place in places.items():
        assert place in found[name.capitalize()].found
        assert "address" in found[name.capitalize()].fix


@contextmanager
def silent() -> Iterator[str]:
    """host:port of what accepts connections and never answers: the kernel does the accepting."""
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def test_an_engine_that_never_answers_is_told_in_time() -> None:
    began = SystemClock().monotonic()
    with silent() as place:
        found = await faults(cassandra=place, kafka=place, redis=place)
    assert SystemClock().monotonic() - began < 30
    assert set(found) == {"Cassandra", "Kafka", "Redis"}
    assert all(place in one.found and one.fix for one in found.values())


def test_up_starts_nothing_for_a_silent_engine(tmp_path: Path) -> None:
    with silent() as place:
        told = refused_up(tmp_path / "mesh", "--kafka", place)
    assert told["error"] == "Kafka cannot be used"
    assert told["where"] == place


async def test_a_wrong_password_is_told_and_never_shown(engines: Engines) -> None:
    found = await faults(**engines.named("verkehrt"))
    assert set(found) == {"Cassandra", "Kafka", "Redis"}
    assert all("user and password" in one.fix or "user, password" in one.fix for one in found.values()), found
    assert not any("verkehrt" in one.found for one in found.values())
    assert not await faults(**engines.named())


def test_up_tells_a_wrong_password(engines: Engines, tmp_path: Path) -> None:
    told = refused_up(tmp_path / "mesh", "--redis", engines.named("verkehrt")["redis"])
    assert told["error"] == "Redis cannot be used"
    assert "verkehrt" not in json.dumps(told)


async def test_a_topic_with_fewer_partitions_is_left_to_a_person(engines: Engines) -> None:
    address = KafkaAddress.parse(f"kafka://{engines.named()['kafka']}")
    admin = AdminClient(client_settings(address.servers, address.security))
    await asyncio.wrap_future(admin.create_topics([NewTopic(POSTS_CREATED, 3, 1)])[POSTS_CREATED])
    options = engines.options("cassandra", "kafka")
    done = await asyncio.to_thread(feedmesh, "migrate", "up", *options)
    (left,) = done["left"]
    assert left.startswith(f"{POSTS_CREATED} has 3 partitions, wants 12")
    assert left not in done["applied"]["topics"]
    again = await asyncio.to_thread(feedmesh, "migrate", "up", *options)
    assert (again["applied"], again["left"]) == ({}, [left])
    (step,) = (await asyncio.to_thread(feedmesh, "migrate", "plan", *options))["steps"]
    assert (step["what"], step["standing"]) == (left, "left to you")
    (told,) = await look_at_engines(cassandra="", kafka=engines.named()["kafka"], redis="")
    assert told.verdict is Verdict.WARNING
    assert left in told.found
    assert "migrate up" not in told.fix
    await asyncio.wrap_future(admin.delete_topics([POSTS_CREATED])[POSTS_CREATED])


@pytest.mark.parametrize(
    ("number", "name", "says"), [(9_001, "tomorrow", "newer version"), (1, "outbox", "changed after it was applied")]
)
async def test_a_keyspace_that_does_not_fit_is_told(
    engines: Engines, tmp_path: Path, number: int, name: str, says: str
) -> None:
    key = f"WHERE scope = 0 AND number = {number}"
    options = engines.options("cassandra", "kafka")
    await asyncio.to_thread(feedmesh, "migrate", "up", *options)
    async with open_cql(keyspace_of(engines, "feedmesh_graph")) as cql:
        there = await cql.schema(f"SELECT name, checksum FROM schema_migrations {key}")
        await cql.schema(
            "INSERT INTO schema_migrations (scope, number, name, checksum) "
            f"VALUES (0, {number}, '{name}', 'of another')"
        )
        try:
            told = await asyncio.to_thread(refused_up, tmp_path / "mesh", *options)
            assert told["error"] == "Cassandra cannot be used"
            assert says in told["cause"]
            seen = await asyncio.to_thread(feedmesh, "doctor", *options, exit_code=1)
            (finding,) = [one for one in seen["findings"] if one["what"] == "Cassandra"]
            assert finding["verdict"] == "fault"
            assert f"{number:04}_{name}" in finding["found"]
            assert "the version of feedmesh" in finding["fix"]
            refused = await asyncio.to_thread(feedmesh, "migrate", "up", *options, exit_code=1)
            assert refused["cause"] in {"SCHEMA_NEWER", "SCHEMA_CHANGED"}
        finally:
            if there:
                await cql.schema(f"UPDATE schema_migrations SET checksum = '{there[0][1]}' {key}")
            else:
                await cql.schema(f"DELETE FROM schema_migrations {key}")


async def test_a_mesh_runs_on_them_and_leaves_them_running(engines: Engines, tmp_path: Path) -> None:
    options = engines.options("cassandra", "kafka", "redis")

    def live() -> None:
        with running_mesh(tmp_path / "mesh", "--profile", "cluster", *options) as mesh:
            assert not {"cassandra", "kafka", "valkey-1"} & set(mesh.processes)
            assert feedmesh("status", "--data", mesh.data)["healthy"]
            assert PASSWORD not in json.dumps(feedmesh("doctor", "--profile", "embedded", *options))

    await asyncio.to_thread(live)
    assert not await faults(**engines.named())
