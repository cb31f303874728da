"""The topics of the event log as code: what each one is, how a cluster differs from that, and how it is put right."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not declared as exported
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from foundation.errors import Unavailable
from foundation.events.kafka_log import MAX_RECORD_BYTES, PLAIN, client_settings, log_unavailable
from foundation.events.port import (
    DEAD_LETTERS,
    FEED_FANOUT,
    GRAPH_BY_FOLLOWEE,
    GRAPH_BY_FOLLOWER,
    POSTS_CREATED,
    POSTS_DELETED,
    POSTS_UPDATED,
    PRIVACY,
    RETENTION_MS,
    RETRY_1M,
    RETRY_5S,
    RETRY_10M,
)
from foundation.model.clock import DAY_MS

ANSWER_WITHIN_S = 10.0
"""How long a broker may take to answer; then the log counts as unavailable."""

LOOK_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class TopicSpec:
    """One topic as it must be."""

    name: str
    partitions: int
    """How many consumers of one group can share it; fixed for good where keys must stay in order."""
    retention_ms: int | None = 7 * DAY_MS
    """How long records are kept. None: for ever."""
    cleanup: str = "delete"
    """cleanup.policy: "delete" drops old records, "compact" keeps the newest of each key."""
    timestamps: str = "LogAppendTime"
    """message.timestamp.type: the broker's clock, so that a lag in time does not depend on the clock of a writer."""

    max_bytes: int | None = None
    """max.message.bytes: the largest batch of records. None: the broker's."""

    @property
    def config(self) -> dict[str, str]:
        """The settings of the topic that are ours; all others are the broker's."""
        ours = {
            "cleanup.policy": self.cleanup,
            "message.timestamp.type": self.timestamps,
            "retention.ms": str(-1 if self.retention_ms is None else self.retention_ms),
        }
        return ours if self.max_bytes is None else {**ours, "max.message.bytes": str(self.max_bytes)}


_PARTITIONS = {
    # The busiest, and the slowest to work off: one record writes to many timelines.
    POSTS_CREATED: 12,
    # Rare beside creations.
    POSTS_UPDATED: 6,
    POSTS_DELETED: 6,
    # Every change of an edge is in both: once in the order of the followed, once in that of the follower.
    GRAPH_BY_FOLLOWEE: 12,
    GRAPH_BY_FOLLOWER: 12,
    # Shares of the delivery of what has many followers, 8 KB each, in no order.
    FEED_FANOUT: 12,
    # Changes of privacy and blocks stay in order over all accounts.
    PRIVACY: 1,
    # What waits there is little, and order does not matter: a few partitions for a few workers.
    RETRY_5S: 3,
    RETRY_1M: 3,
    RETRY_10M: 3,
    DEAD_LETTERS: 1,
}
_TAKING_ALL = frozenset({RETRY_5S, RETRY_1M, RETRY_10M, DEAD_LETTERS})
"""A record that another topic took fits into these with what is written on it: else it would never leave its topic."""
TOPICS = tuple(
    TopicSpec(
        name=name,
        partitions=partitions,
        retention_ms=RETENTION_MS[name],
        max_bytes=MAX_RECORD_BYTES if name in _TAKING_ALL else None,
    )
    for name, partitions in _PARTITIONS.items()
)


class Remedy(Enum):
    """What apply_topics does about a difference."""

    CREATE = "create"
    """The topic is made."""
    ALTER = "alter"
    """The settings are changed."""
    LEAVE = "leave"
    """Nothing: a person must decide."""


@dataclass(frozen=True)
class Difference:
    """One way in which a cluster is not as it must be."""

    topic: TopicSpec
    remedy: Remedy
    text: str
    """For people."""

    def __str__(self) -> str:
        return f"{self.topic.name} {self.text}"


async def plan_topics(
    servers: str, replication: int = 1, security: Mapping[str, str] = PLAIN, *, topics: Sequence[TopicSpec] = TOPICS
) -> list[Difference]:
    """What differs from *topics*, in their order; nothing is changed.

    *replication* is how many brokers keep each record of a topic that is missing; topics that are there keep theirs.
    Raises Unavailable when no broker answers within 10 s: LOG_LOGIN_REFUSED when one refuses the user or password.
    """
    return await _plan(_Admin(servers, security), replication, topics)


async def apply_topics(
    servers: str, replication: int = 1, security: Mapping[str, str] = PLAIN, *, topics: Sequence[TopicSpec] = TOPICS
) -> list[Difference]:
    """Makes what plan_topics found so, as far as that is safe, and tells what that was; Remedy.LEAVE is left as it is.

    May run in several processes at once. Raises Unavailable when no broker answers within 10 s or the cluster refuses.
    """
    admin = _Admin(servers, security)
    differences = await _plan(admin, replication, topics)
    create = [one.topic for one in differences if one.remedy is Remedy.CREATE]
    alter = [one.topic for one in differences if one.remedy is Remedy.ALTER]
    if create:
        made = admin.create_topics(
            [
                NewTopic(topic.name, topic.partitions, replication, config=topic.config)
                for topic in create
            ],
            operation_timeout=ANSWER_WITHIN_S,
            request_timeout=ANSWER_WITHIN_S,
        )  # fmt: skip
        for future in made.values():
            await _answer(future, but=KafkaError.TOPIC_ALREADY_EXISTS)  # another process was faster
        await _served(admin, {topic.name for topic in create})
    if alter:
        altered = admin.incremental_alter_configs(
            [
                ConfigResource(
                    ResourceType.TOPIC,
                    topic.name,
                    incremental_configs=[
                        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                        for name, value in topic.config.items()
                    ],
                )
                for topic in alter
            ],
            request_timeout=ANSWER_WITHIN_S,
        )
        for future in altered.values():
            await _answer(future)
    return differences


async def _served(admin: AdminClient, names: set[str]) -> None:
    """Returns when brokers serve *names*: the controller answers before they have heard of a topic it made."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            while True:
                there = (await asyncio.to_thread(admin.list_topics, timeout=ANSWER_WITHIN_S)).topics
                if all(name in there and _has_leaders(there[name]) for name in names):
                    return
                await asyncio.sleep(LOOK_EVERY_S)
    except KafkaException as failure:
        raise log_unavailable(failure) from failure
    except TimeoutError as failure:
        raise Unavailable("LOG_UNAVAILABLE", cause="NO_LEADER") from failure


def _has_leaders(topic: Any) -> bool:
    return bool(topic.partitions) and all(partition.leader >= 0 for partition in topic.partitions.values())


async def _plan(admin: _Admin, replication: int, topics: Sequence[TopicSpec]) -> list[Difference]:
    there = await _topics_there(admin)
    present = [topic for topic in topics if topic.name in there]
    configs = await _configs(admin, [topic.name for topic in present]) if present else {}
    differences: list[Difference] = []
    for topic in topics:
        if topic.name not in there:
            text = f"is missing: {topic.partitions} partitions, replication {replication}"
            differences.append(Difference(topic, Remedy.CREATE, text))
            continue
        has = len(there[topic.name].partitions)
        if has < topic.partitions:
            # Keys are placed by their hash modulo the number of partitions: with more of them, new records of a key
            # would overtake old ones that wait in another partition.
            text = (
                f"has {has} partitions, wants {topic.partitions}: keys would move; "
                "recreate it while nobody writes and every group has read it, or go on with fewer"
            )
            differences.append(Difference(topic, Remedy.LEAVE, text))
        found = configs[topic.name]
        wrong = [
            f"{name} {found.get(name)} instead of {value}"
            for name, value in topic.config.items()
            if found.get(name) != value
        ]
        if wrong:
            differences.append(Difference(topic, Remedy.ALTER, f"has {', '.join(wrong)}"))
    return differences


async def _configs(admin: AdminClient, names: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """The settings in force of each topic."""
    asked = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=ANSWER_WITHIN_S
    )
    return {
        resource.name: {name: entry.value for name, entry in (await _answer(future)).items()}
        for resource, future in asked.items()
    }


class _Admin(AdminClient):
    """Notes that a broker refused the login: librdkafka tries again until time is up, and then tells only that."""

    def __init__(self, servers: str, security: Mapping[str, str]) -> None:
        self.refused = False
        settings: dict[str, Any] = {**client_settings(servers, security), "error_cb": self._note}
        super().__init__(settings)

    def _note(self, error: KafkaError) -> None:
        self.refused = self.refused or error.code() == KafkaError._AUTHENTICATION  # noqa: SLF001 - its public name


async def _topics_there(admin: _Admin) -> Mapping[str, Any]:
    try:
        return (await asyncio.to_thread(admin.list_topics, timeout=ANSWER_WITHIN_S)).topics
    except KafkaException as failure:
        admin.poll(0)  # hands over what was noted
        if admin.refused:
            raise Unavailable("LOG_LOGIN_REFUSED", "the event log refuses this user or password") from failure
        raise log_unavailable(failure) from failure


async def _answer(future: Future[Any], *, but: int | None = None) -> Any:
    """What the cluster answered; None for the error *but*."""
    try:
        async with asyncio.timeout(2 * ANSWER_WITHIN_S):
            return await asyncio.wrap_future(future)
    except KafkaException as failure:
        if failure.args[0].code() == but:
            return None
        raise log_unavailable(failure) from failure
    except TimeoutError as failure:
        raise Unavailable("LOG_UNAVAILABLE", cause="NO_ANSWER") from failure
