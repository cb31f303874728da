"""Records that nobody should have to handle: told again, out of order, senseless, or no records at all."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from random import Random
from uuid import uuid4

import numpy as np
from confluent_kafka import Producer
from feedmesh.events.v1.envelope_pb2 import Envelope
from feedmesh.events.v1.fanout_events_pb2 import FanoutChunk
from feedmesh.events.v1.graph_events_pb2 import FOLLOW_STATE_FOLLOWING, FOLLOW_STATE_NONE, FollowChanged, FollowState
from feedmesh.events.v1.post_events_pb2 import PostCreated

from feedmesh_cli.dead_letters import list_letters
from feedmesh_cli.log_access import read_all
from feedmesh_cli.mesh_file import Mesh
from foundation.events.envelope import SCHEMA_VERSION, AnyEvent, Undecodable, decode, encode
from foundation.events.kafka_log import key_of
from foundation.events.port import (
    FEED_FANOUT,
    GRAPH_BY_FOLLOWEE,
    GRAPH_BY_FOLLOWER,
    POSTS_CREATED,
    Event,
    EventLog,
)
from foundation.events.retries import group_of
from foundation.model.clock import SystemClock
from foundation.model.ids import MAX_ID, id_at
from tests.kit.http import send

TOLD_AGAIN = (POSTS_CREATED, GRAPH_BY_FOLLOWEE, GRAPH_BY_FOLLOWER, FEED_FANOUT)
GROUPS = {
    POSTS_CREATED: ("fanout.audit", "fanout.large", "fanout.posts", "rank.features"),
    GRAPH_BY_FOLLOWEE: ("graph.followers",),
    GRAPH_BY_FOLLOWER: ("fanout.backfill",),
    FEED_FANOUT: ("fanout.chunks",),
}
"""Topic to who reads it: a record that cannot be decoded is a dead letter of each."""
DELIVERING = {topic: [group for group in groups if group.startswith("fanout.")] for topic, groups in GROUPS.items()}
STRANGER = 7
"""An id that nobody has: the first ones are of 2023."""


class Told:
    """What is on the topics TOLD_AGAIN, as it comes; each record once, however often it was told."""

    def __init__(self, log: EventLog, since_ms: int) -> None:
        self._log = log
        self._since_ms = since_ms
        self._events: dict[tuple[str, bytes], Event] = {}
        self._posts: set[int] = set()

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[Told]:
        """Owns the task that reads."""
        task = asyncio.create_task(self._listen())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def holds(self, posts: Collection[int]) -> bool:
        """Whether the records of all *posts* are among it, and some of every topic."""
        return self._posts.issuperset(posts) and {topic for topic, _ in self._events} == {*TOLD_AGAIN}

    async def again(self, chance: np.random.Generator) -> int:
        """Tell all of it once more, in a random order; how many records it were."""
        events = list(self._events.values())
        await self._log.append([events[place] for place in chance.permutation(len(events))])
        return len(events)

    async def _listen(self) -> None:
        async for record in read_all(self._log, TOLD_AGAIN, follow=True):
            with suppress(Undecodable):
                envelope = decode(record.value)
                if record.timestamp_ms >= self._since_ms:
                    event = Event(record.topic, record.key, record.value, record.headers)
                    self._events.setdefault((record.topic, record.value), event)
                    self._posts.add(envelope.post_created.post_id)


@dataclass(frozen=True)
class Poison:
    """Records, and what the consumers are to do about them."""

    undecodable: Sequence[Event]
    """Dead letters of every group of their topic, each under a key of its own."""
    senseless: Sequence[tuple[Event, str]]
    """Left out for that reason, by every group of the fan-out that reads it."""
    harmless: Sequence[Event]
    """Believed, as far as they go, and without an effect that anybody sees."""

    @property
    def events(self) -> Sequence[Event]:
        """All of them."""
        return [*self.undecodable, *(event for event, _ in self.senseless), *self.harmless]


def poison(*, author: int, other: int, follower: int, post: int, deleted: int) -> Poison:
    """*post* is by *author*, *deleted* was; *follower* follows *author* and not *other*."""
    keys = count(id_at(SystemClock().now_ms()))
    now = id_at(SystemClock().now_ms())

    def on(topic: str, value: bytes) -> Event:
        return Event(topic, next(keys), value)

    def says(topic: str, event: AnyEvent, *, event_id: int = now, version: int = 1) -> Event:
        return on(topic, encode(event, event_id=event_id, version=version))

    def chunk(*followers: int, torn: bytes = b"", created_ms: int = 0) -> FanoutChunk:
        packed = np.array(followers, dtype="<i8").tobytes() + torn
        return FanoutChunk(post_ids=[post], author_id=author, follower_ids=packed, number=1, created_ms=created_ms)

    def follow(one: int, whom: int, state: FollowState.ValueType = FOLLOW_STATE_FOLLOWING) -> FollowChanged:
        return FollowChanged(follower_id=one, followee_id=whom, state=state)

    sound = encode(PostCreated(post_id=post, author_id=author), event_id=post, version=1)
    newer = Envelope.FromString(sound)
    newer.schema_version = SCHEMA_VERSION + 1
    return Poison(
        undecodable=[
            on(topic, value)
            for topic in TOLD_AGAIN
            for value in (b"\xff\xff no envelope", sound[:-1], b"", b"\xff" * 900_000, newer.SerializeToString())
        ],
        senseless=[
            (says(POSTS_CREATED, PostCreated(post_id=-1, author_id=author)), "ID_NOT_POSITIVE"),
            (says(POSTS_CREATED, PostCreated(post_id=post, author_id=0)), "ID_NOT_POSITIVE"),
            (says(FEED_FANOUT, chunk(follower, -follower)), "ID_NOT_POSITIVE"),
            (says(FEED_FANOUT, chunk(follower, torn=b"torn")), "CHUNK_TORN"),
            (says(FEED_FANOUT, chunk()), "CHUNK_TORN"),
        ],
        harmless=[
            # A post that was deleted, and posts that never were, by somebody, by nobody, of a time to come.
            says(POSTS_CREATED, PostCreated(post_id=deleted, author_id=author), event_id=deleted),
            says(POSTS_CREATED, PostCreated(post_id=now + 1, author_id=author)),
            says(POSTS_CREATED, PostCreated(post_id=now + 2, author_id=STRANGER, author_followers=5_000)),
            says(POSTS_CREATED, PostCreated(post_id=MAX_ID, author_id=author)),
            # Somebody else's post.
            says(POSTS_CREATED, PostCreated(post_id=post, author_id=other)),
            # Times before all times.
            says(POSTS_CREATED, PostCreated(post_id=post, author_id=author), event_id=-1, version=-1),
            says(FEED_FANOUT, chunk(follower, created_ms=-1), event_id=-1, version=-1),
            # Follows that nobody made, of oneself, by nobody; the end of one that stands.
            *(
                says(topic, change, version=version)
                for topic in (GRAPH_BY_FOLLOWEE, GRAPH_BY_FOLLOWER)
                for version in (-1, now)
                for change in (
                    follow(author, author),
                    follow(follower, other),
                    follow(STRANGER, author),
                    follow(-follower, author),
                    follow(follower, author, FOLLOW_STATE_NONE),
                    follow(STRANGER, author, FOLLOW_STATE_NONE),
                )
            ),
        ],
    )


@dataclass(frozen=True)
class Strange:
    """A record that no client of ours would write."""

    topic: str
    raw_key: bytes
    value: bytes

    @property
    def key(self) -> int:
        """As the log tells it."""
        return key_of(self.raw_key)


def strange() -> Sequence[Strange]:
    """On every topic: a key that is none of ours, and as much as the broker takes."""
    return [
        Strange(topic, uuid4().hex.encode(), value)
        for topic in TOLD_AGAIN
        for value in (b"\xff no envelope", Random(1).randbytes(1_048_400))
    ]


async def write_strange(mesh: Mesh, records: Sequence[Strange]) -> None:
    """Past our own client."""
    broker = mesh.engines["kafka"].removeprefix("kafka://")
    producer = Producer({"bootstrap.servers": broker, "message.max.bytes": 2_000_000})
    for record in records:
        producer.produce(record.topic, record.value, record.raw_key)
    assert await asyncio.to_thread(producer.flush, 10.0) == 0
    producer.close()


async def buried(mesh: Mesh, *, since_ms: int) -> Counter[tuple[int, str]]:
    """Key and group of the dead letters since then."""
    letters = [letter for letter in await list_letters(mesh, every=True) if letter.record.timestamp_ms >= since_ms]
    return Counter((letter.record.key, group_of(letter.record)) for letter in letters)


async def left_out(mesh: Mesh) -> Counter[tuple[str, str]]:
    """Topic and reason of what the fan-out left out since it started."""
    page = (await send(mesh.status.removeprefix("http://"), "GET", "/metrics")).body.decode()
    line = r'feedmesh_records_ignored_total{service="fanout_worker",reason="(\w+)",topic="([\w.]+)"} ([\d.]+)'
    return Counter({(topic, reason): int(float(number)) for reason, topic, number in re.findall(line, page)})
