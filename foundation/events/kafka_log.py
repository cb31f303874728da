"""The event log over Kafka: one idempotent producer, and for each group and its topics one consumer on its own thread.

librdkafka's calls block, so none is made on the event loop but the two that only enqueue. Delivery is at least once:
a record is committed after its effect, and every wait for the broker is bounded, so that a broker that is away shows as
Unavailable and never as a stuck process.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from foundation.errors import Unavailable
from foundation.events.port import Event, Record
from foundation.model.clock import Clock
from foundation.telemetry.logging import logger

T = TypeVar("T")

PLAIN: Mapping[str, str] = MappingProxyType({})
"""No security settings: a broker on loopback."""

KEY_BYTES = 8
MAX_RECORD_BYTES = 2 * 1024 * 1024
"""More than a broker takes on any topic but those for what could not be handled (kafka_topics): whatever came from a
topic can go there, with the headers that tell why."""
DELIVERY_TIMEOUT_S = 10.0
"""How long an append waits for the broker; then it is Unavailable, whether or not the broker took it."""
MAX_QUEUED = 50_000
"""Records appended and not yet acknowledged; one more is refused, so memory stays bounded while the broker is away."""
LINGER_MS = 2
"""How long a record waits for others to share its request: less than the broker's own round trip."""
ANSWER_WITHIN_S = 5.0
"""How long commits, rewinds and lags wait for the broker."""
SLICE_S = 0.1
"""How long a consumer's thread waits for records at a time; commits wait behind it."""
KEEP_ALIVE_S = 1.0
"""A consumer that nobody polls for this long is paused and polled for the sake of its membership."""
MAX_POLL_INTERVAL_MS = 300_000
"""Kafka throws out a member that does not poll for this long: now only one whose process hangs."""
FLUSH_WITHIN_S = 3.0
CLOSE_WITHIN_S = 10.0
COMMIT_TRIES = 5
COMMIT_AGAIN_S = 0.2
"""A commit that meets a rebalance is tried again after the member has heard of it."""
ASK_AGAIN_S = 0.1
SILENT_S = 10.0
"""A member that was handed nothing for so long looks whether there is nothing; twice in a row, for a record may be on
its way. One that is behind both times is replaced: a consumer that its group had given up while its whole process was
stopped, after a broker had died, was seen to fetch nothing for ever (librdkafka 2.16, group.protocol=consumer)."""
PLACELESS_SILENT_S = 320.0
"""The same for a member without any place while its group is behind: it may be one too many for its topics, so it waits
twice as long after each time it was replaced in vain, up to this."""

Place = tuple[str, int]
"""A topic, as Kafka calls it, and a partition."""

_QUIET = 2
"""librdkafka logs to stderr; what matters reaches error_cb and our own log."""
_CLASSIC_ONLY = (KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE)  # noqa: SLF001 - librdkafka's own codes
_FATAL = KafkaError._FATAL  # noqa: SLF001
_END_OF_PARTITION = KafkaError._PARTITION_EOF  # noqa: SLF001
_MOVING = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)
"""Another broker takes over, or a new topic is not served yet: it is a matter of moments."""
_NOT_FETCHING = KafkaError._STATE  # noqa: SLF001


def client_settings(servers: str, security: Mapping[str, str] = PLAIN) -> dict[str, Any]:
    """What every client of *servers* ("host:port,host:port") is made with; *security* are settings of librdkafka."""
    return {
        "bootstrap.servers": servers,
        "log_level": _QUIET,
        "socket.timeout.ms": 10_000,
        "socket.nagle.disable": True,
        # A broker that comes back is found within a second.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        **security,
    }


def log_unavailable(failure: KafkaException | KafkaError) -> Unavailable:
    """The error that callers get for *failure*; its cause is the name of librdkafka's error."""
    error = failure.args[0] if isinstance(failure, KafkaException) else failure
    cause = error.name() if isinstance(error, KafkaError) else type(failure).__name__
    return Unavailable("LOG_UNAVAILABLE", cause=cause)


@asynccontextmanager
async def kafka_log(
    servers: str,
    clock: Clock,
    *,
    security: Mapping[str, str] = PLAIN,
    prefix: str = "",
    delivery_timeout_s: float = DELIVERY_TIMEOUT_S,
    max_queued: int = MAX_QUEUED,
    max_poll_interval_ms: int = MAX_POLL_INTERVAL_MS,
) -> AsyncIterator[KafkaEventLog]:
    """Owns the log over the brokers *servers*; connects when it is used, so brokers may come later.

    *prefix* stands before the names of topics and groups in Kafka and is not seen by callers: for several meshes, or
    tests, on one cluster.
    """
    appender = _Appender(
        {
            **client_settings(servers, security),
            "delivery.timeout.ms": round(delivery_timeout_s * 1000),
            "queue.buffering.max.messages": max_queued,
        },
        asyncio.get_running_loop(),
    )
    log = KafkaEventLog(
        appender,
        client_settings(servers, security),
        clock,
        prefix=prefix,
        max_poll_interval_ms=max_poll_interval_ms,
    )
    try:
        yield log
    finally:
        await log.close()


class KafkaEventLog:
    """foundation.events.port.EventLog over Kafka. Made by kafka_log."""

    def __init__(
        self,
        appender: _Appender,
        settings: Mapping[str, Any],
        clock: Clock,
        *,
        prefix: str,
        max_poll_interval_ms: int,
    ) -> None:
        self._appender = appender
        self._settings = settings
        self._clock = clock
        self._prefix = prefix
        self._max_poll_interval_ms = max_poll_interval_ms
        self._members: dict[tuple[str, tuple[str, ...]], _Member] = {}
        self._watermarks = _Watermarks(settings)

    async def append(self, events: Sequence[Event]) -> None:
        if events:
            await self._appender.append(self._prefix, events)

    async def poll(self, group: str, topics: Sequence[str], *, max_records: int, wait_s: float) -> Sequence[Record]:
        wanted = (group, tuple(sorted(set(topics))))
        member = self._members.get(wanted)
        if member is None:
            member = self._members[wanted] = _Member(
                {
                    **self._settings,
                    "group.id": self._prefix + group,
                    "max.poll.interval.ms": self._max_poll_interval_ms,
                },
                wanted[1],
                self._prefix,
                self._clock,
            )
        return await member.poll(max_records, wait_s)

    async def commit(self, group: str, records: Sequence[Record]) -> None:
        """Records of a partition that has another owner by now are left to it: it does them again, with no effect."""
        done: dict[Place, int] = {}
        for record in records:
            place = (self._prefix + record.topic, record.partition)
            done[place] = max(done.get(place, 0), record.offset + 1)
        if done:
            # A group may read several sets of topics; whoever owns a partition commits it.
            await asyncio.gather(*(member.commit(done) for member in self._members_of(group)))

    async def rewind(self, group: str, topics: Sequence[str]) -> None:
        wanted = {self._prefix + topic for topic in topics}
        await asyncio.gather(*(member.rewind(wanted) for member in self._members_of(group)))

    async def rewind_to(self, group: str, topics: Sequence[str], timestamp_ms: int) -> None:
        wanted = {self._prefix + topic for topic in topics}
        await asyncio.gather(*(member.rewind_to(wanted, timestamp_ms) for member in self._members_of(group)))

    async def lag(self, group: str, topics: Sequence[str]) -> int:
        return await self._watermarks.lag(self._prefix + group, [self._prefix + topic for topic in topics])

    async def share(self, group: str, topics: Sequence[str]) -> float:
        wanted = [self._prefix + topic for topic in topics]
        owned = sum(member.owned(wanted) for member in self._members_of(group))
        return owned / await self._watermarks.partitions(self._prefix + group, wanted)

    async def close(self) -> None:
        """Leave the groups, send what is queued (for at most 3 s), and end every thread."""
        try:
            await asyncio.gather(self._watermarks.close(), *(member.close() for member in self._members.values()))
        finally:
            await self._appender.close()

    def _members_of(self, group: str) -> list[_Member]:
        return [member for (of_group, _), member in self._members.items() if of_group == group]


class _Batch:
    """The records of one append: done when the broker has answered for each."""

    __slots__ = ("_done", "_failure", "_left", "_loop")

    def __init__(self, records: int, loop: asyncio.AbstractEventLoop) -> None:
        self._left = records
        self._loop = loop
        self._done: asyncio.Future[KafkaError | None] = loop.create_future()
        self._failure: KafkaError | None = None

    def delivered(self, error: KafkaError | None, _message: Message[bytes, bytes]) -> None:
        """On the appender's thread, once for each record."""
        self._failure = self._failure or error
        self._left -= 1
        if self._left == 0:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._answer)

    async def answered(self) -> None:
        failure = await self._done
        if failure is not None:
            raise log_unavailable(failure)

    def _answer(self) -> None:
        if not self._done.done():
            self._done.set_result(self._failure)


class _Appender:
    """One producer, and the thread that takes its delivery reports."""

    def __init__(self, settings: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._settings = {
            **settings,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": LINGER_MS,
            "compression.type": "lz4",
            "message.max.bytes": MAX_RECORD_BYTES,
            # As Kafka's own clients place keys.
            "partitioner": "murmur2_random",
            "error_cb": self._failed,
        }
        self._loop = loop
        self._timeout_s = settings["delivery.timeout.ms"] / 1000 + 1.0
        self._broken = False
        self._closing = False
        self._producer = Producer(self._settings)
        self._thread = threading.Thread(target=self._serve, name="kafka appender", daemon=True)
        self._thread.start()

    async def append(self, prefix: str, events: Sequence[Event]) -> None:
        batch = _Batch(len(events), self._loop)
        produce = self._producer.produce
        try:
            for event in events:
                produce(
                    prefix + event.topic,
                    event.value,
                    event.key.to_bytes(KEY_BYTES, "big", signed=True),
                    on_delivery=batch.delivered,
                    headers=[(name, value.encode()) for name, value in event.headers.items()],
                )
        except BufferError as failure:
            raise Unavailable("LOG_UNAVAILABLE", cause="QUEUE_FULL") from failure
        except KafkaException as failure:
            raise log_unavailable(failure) from failure
        try:
            async with asyncio.timeout(self._timeout_s):
                await batch.answered()
        except TimeoutError as failure:
            raise Unavailable("LOG_UNAVAILABLE", cause="NO_REPORT") from failure

    async def close(self) -> None:
        self._closing = True
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        while not self._closing:
            self._producer.poll(SLICE_S)
            if self._broken:
                self._replace()
        self._end(FLUSH_WITHIN_S)

    def _replace(self) -> None:
        """An idempotent producer that lost its place in the sequence is of no more use; a new one begins anew."""
        self._broken = False
        broken, self._producer = self._producer, Producer(self._settings)
        _end_producer(broken, 0.0)

    def _end(self, within_s: float) -> None:
        _end_producer(self._producer, within_s)

    def _failed(self, error: KafkaError) -> None:
        """On the appender's thread: what concerns no single record."""
        if error.fatal() or error.code() == _FATAL:
            self._broken = True
            logger.error("kafka_producer_broken", cause=error.name())
        # The rest is told to each append that fails.


def _end_producer(producer: Producer, within_s: float) -> None:
    if producer.flush(within_s):
        # What is left fails now, so that whoever waits for it is told.
        producer.purge()
        producer.flush(1.0)
    producer.close()


class _Member:
    """One consumer in one group. Every method that begins with `_on_` runs on its thread, one at a time."""

    def __init__(self, settings: Mapping[str, Any], topics: Sequence[str], prefix: str, clock: Clock) -> None:
        self._settings = settings
        self._topics = topics
        self._prefix = prefix
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kafka {settings['group.id']}")
        self._consumer: Consumer | None = None
        self._protocol = "consumer"
        self._fatal: KafkaError | None = None
        self._told: set[int] = set()
        """Errors that were logged since the last record came: librdkafka repeats them with every try."""
        self._owned: set[Place] = set()
        self._next: dict[Place, int] = {}
        """Where reading goes on."""
        self._done: dict[Place, int] = {}
        """What is committed of the places we own, as far as we know."""
        self._held_still = False
        self._heard_at = clock.monotonic()
        """When records came, or silence was found to be right."""
        self._behind_before = False
        self._patience_s = SILENT_S
        self._ahead: deque[Record] = deque()
        """Read and not handed out: a poll that was cancelled leaves them to the next one."""
        self._ahead_lock = threading.Lock()
        self._pollers = 0
        self._polled_at = clock.monotonic()
        self._keeping_alive: asyncio.Task[None] | None = None

    async def poll(self, max_records: int, wait_s: float) -> Sequence[Record]:
        if self._keeping_alive is None:
            self._keeping_alive = asyncio.create_task(self._keep_alive(), name="kafka keep-alive")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        self._pollers += 1
        try:
            while True:
                left_s = deadline - loop.time()
                with contextlib.suppress(TimeoutError):
                    # The thread may be waiting for a broker that is away. What it reads later is handed out later.
                    async with asyncio.timeout(max(left_s, SLICE_S)):
                        await self._call(lambda: self._on_fill(max_records, max(0.0, min(left_s, SLICE_S))))  # noqa: B023 - awaited here
                records = self._take(max_records)
                if records or loop.time() >= deadline:
                    return records
        finally:
            self._pollers -= 1
            self._polled_at = self._clock.monotonic()

    async def commit(self, done: Mapping[Place, int]) -> None:
        await self._call(lambda: self._on_commit(done))

    def owned(self, topics: Sequence[str]) -> int:
        """How many partitions of *topics* are ours."""
        return sum(topic in topics for topic, _ in list(self._owned))

    async def rewind(self, topics: set[str]) -> None:
        await self._call(lambda: self._on_rewind(topics))

    async def rewind_to(self, topics: set[str], timestamp_ms: int) -> None:
        await self._call(lambda: self._on_rewind_to(topics, timestamp_ms))

    async def close(self) -> None:
        if self._keeping_alive is not None:
            self._keeping_alive.cancel()
            await asyncio.gather(self._keeping_alive, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._call(self._on_close)
        except (TimeoutError, Unavailable):
            logger.warning("kafka_close_failed", group=self._settings["group.id"])
        self._thread.shutdown(wait=False)

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except KafkaException as failure:
            raise log_unavailable(failure) from failure

    async def _keep_alive(self) -> None:
        """A handler may take as long as it must: meanwhile its places stay ours, and nothing more is read."""
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            if not self._pollers and self._clock.monotonic() >= self._polled_at + KEEP_ALIVE_S:
                with contextlib.suppress(Unavailable):  # whoever polls next is told
                    await self._call(self._on_keep_alive)

    def _take(self, max_records: int) -> Sequence[Record]:
        with self._ahead_lock:
            return [self._ahead.popleft() for _ in range(min(max_records, len(self._ahead)))]

    def _on_fill(self, max_records: int, wait_s: float) -> None:
        if self._ahead:
            return
        consumer = self._joined()
        if self._held_still:
            self._go_on(consumer)
        # With a timeout, consume() waits for all that was asked for: so wait for one, then take what is there.
        messages = consumer.consume(max_records, 0)
        if not messages and (first := consumer.poll(wait_s)) is not None:
            messages = [first, *(consumer.consume(max_records - 1, 0) if max_records > 1 else ())]
        self._keep(messages)
        if self._clock.monotonic() > self._heard_at + self._patience_s:
            self._on_silence(consumer)

    def _on_silence(self, consumer: Consumer) -> None:
        """Nothing came for a while: is there nothing?"""
        self._heard_at = self._clock.monotonic()
        behind = self._unread(consumer) if self._owned else self._unread_by_anybody(consumer)
        if behind and self._behind_before:
            logger.error(
                "kafka_consumer_stuck",
                group=self._settings["group.id"],
                places=behind,
                owned=len(self._owned),
            )
            self._patience_s = SILENT_S if self._owned else min(2 * self._patience_s, PLACELESS_SILENT_S)
            self._on_close()
            self._forget(list(self._owned))
        self._behind_before = bool(behind) and not self._behind_before

    def _unread(self, consumer: Consumer) -> int:
        """How many of our places have records that were not handed out."""
        owned = sorted(self._owned)
        if unknown := [place for place in owned if place not in self._next and place not in self._done]:
            self._look_up(unknown)
        newest = _ends(consumer, owned, OFFSET_END)
        return sum(newest[place] > self._next.get(place, self._done.get(place, 0)) for place in owned)

    def _unread_by_anybody(self, consumer: Consumer) -> int:
        """How many places of our topics have records that the group has not finished."""
        return sum(left > 0 for left in _left(consumer, [self._prefix + topic for topic in self._topics]).values())

    def _on_keep_alive(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        if self._owned:
            consumer.pause(_partitions(self._owned))
        self._held_still = True
        # What was on its way before the pause, or came with a new place, is handed out first.
        if (message := consumer.poll(0)) is not None:
            self._keep([message])

    def _on_commit(self, done: Mapping[Place, int]) -> None:
        for tried in range(1, COMMIT_TRIES + 1):
            # Read first: a place that came back to us may have been committed further by its owner in between.
            behind = self._behind(done)
            if not behind or self._consumer is None:
                return
            try:
                # Synchronous commits wait 45 s for a coordinator that is away. Offsets that are read back after an
                # asynchronous one are as certain, and that wait can be bounded.
                self._consumer.commit(offsets=_partitions(behind), asynchronous=True)
                self._look_up(list(behind))
            except KafkaException as failure:
                if tried == COMMIT_TRIES or not _is_rebalance(failure.args[0]):
                    raise
            if all(self._done.get(place, 0) >= offset for place, offset in behind.items()):
                return
            self._hear_of_rebalance()
        raise KafkaException(KafkaError(KafkaError.REBALANCE_IN_PROGRESS))

    def _behind(self, done: Mapping[Place, int]) -> dict[Place, int]:
        """What of *done* is ours to commit and not committed."""
        ours = {place: offset for place, offset in done.items() if place in self._owned}
        if unknown := [place for place in ours if place not in self._done]:
            self._look_up(unknown)
        return {place: offset for place, offset in ours.items() if offset > self._done[place]}

    def _look_up(self, places: Sequence[Place]) -> None:
        """Ask the broker what is committed of *places*."""
        if self._consumer is None:
            return
        for found in self._consumer.committed(_partitions(places), timeout=ANSWER_WITHIN_S):
            if found.error is not None:
                raise KafkaException(found.error)
            self._done[found.topic, found.partition] = max(found.offset, 0)

    def _hear_of_rebalance(self) -> None:
        if self._consumer is not None and (message := self._consumer.poll(COMMIT_AGAIN_S)) is not None:
            self._keep([message])

    def _on_rewind(self, topics: set[str]) -> None:
        places = [place for place in self._owned if place[0] in topics]
        if self._consumer is None or not places:
            return
        self._look_up(places)
        with self._ahead_lock:
            self._ahead = deque(
                record for record in self._ahead if (self._prefix + record.topic, record.partition) not in places
            )
        # Offset 0 of a partition that has lost its oldest records is out of range: its reset is the oldest.
        self._next.update({place: self._done[place] for place in places})
        self._seek(self._consumer, places)

    def _on_rewind_to(self, topics: set[str], timestamp_ms: int) -> None:
        for _ in range(COMMIT_TRIES):
            # Asked anew each time: a rebalance may have taken places from us, or brought some.
            places = [place for place in self._owned if place[0] in topics]
            if self._consumer is None or not places:
                return
            self._look_up(places)
            at = [TopicPartition(topic, partition, timestamp_ms) for topic, partition in places]
            earlier: dict[Place, int] = {}
            for found in self._consumer.offsets_for_times(at, timeout=ANSWER_WITHIN_S):
                if found.error is not None:
                    raise KafkaException(found.error)
                place = (found.topic, found.partition)
                if 0 <= found.offset < self._done[place]:
                    earlier[place] = found.offset
            if not earlier:
                self._on_rewind(topics)
                return
            try:
                self._consumer.commit(offsets=_partitions(earlier), asynchronous=True)
            except KafkaException as failure:
                if not _is_rebalance(failure.args[0]):
                    raise
            # Seen by the next look-up: then nothing is left to take back.
            self._look_up(list(earlier))
            if any(self._done[place] > offset for place, offset in earlier.items()):
                self._hear_of_rebalance()
        raise KafkaException(KafkaError(KafkaError.REBALANCE_IN_PROGRESS))

    def _on_close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _go_on(self, consumer: Consumer) -> None:
        """The end of _on_keep_alive's pause."""
        consumer.resume(_partitions(self._owned))
        # Nothing tells the thread that fetches of a partition that was resumed: it notices in a second; a seek does.
        self._seek(consumer, [place for place in self._owned if place in self._next])
        self._held_still = False

    def _seek(self, consumer: Consumer, places: Sequence[Place]) -> None:
        for topic, partition in places:
            try:
                consumer.seek(TopicPartition(topic, partition, self._next[topic, partition]))
            except KafkaException as failure:
                if failure.args[0].code() != _NOT_FETCHING:  # one that does not fetch yet begins at what is committed
                    raise

    def _joined(self) -> Consumer:
        if self._fatal is not None:
            fatal, self._fatal = self._fatal, None
            logger.error("kafka_consumer_broken", group=self._settings["group.id"], cause=fatal.name())
            if fatal.code() in _CLASSIC_ONLY:
                self._protocol = "classic"
            self._on_close()
            self._forget(list(self._owned))
        if self._consumer is None:
            protocol = (
                {"group.remote.assignor": "uniform"}
                if self._protocol == "consumer"
                else {"partition.assignment.strategy": "cooperative-sticky"}
            )
            self._consumer = Consumer(
                {
                    **self._settings,
                    "group.protocol": self._protocol,
                    **protocol,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "earliest",
                    "isolation.level": "read_committed",
                    # What waits in librdkafka for us is bounded by bytes, and fetched again soon after it was taken.
                    "queued.max.messages.kbytes": 8_192,
                    "fetch.max.bytes": 4_194_304,
                    "message.max.bytes": 2_097_152,
                    "max.partition.fetch.bytes": 1_048_576,
                    "fetch.queue.backoff.ms": 20,
                    "fetch.error.backoff.ms": 200,
                    # A seek or a pause waits for the fetch that is under way.
                    "fetch.wait.max.ms": 100,
                    "error_cb": self._failed,
                }
            )
            self._consumer.subscribe(
                [self._prefix + topic for topic in self._topics],
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._revoked,
            )
        return self._consumer

    def _keep(self, messages: Sequence[Message[bytes, bytes]]) -> None:
        """Lay *messages* ready. Raises KafkaException when they hold nothing but an error."""
        failure: KafkaError | None = None
        records: list[Record] = []
        for message in messages:
            error = message.error()
            if error is None:
                record = _record(message, len(self._prefix))
                self._next[self._prefix + record.topic, record.partition] = record.offset + 1
                records.append(record)
            elif error.code() != _END_OF_PARTITION:
                failure = error
        with self._ahead_lock:
            self._ahead.extend(records)
        if records:
            self._heard_at = self._clock.monotonic()
            self._behind_before = False
            self._patience_s = SILENT_S
            self._told.clear()
        if failure is not None:
            if failure.fatal():
                self._fatal = failure
            logger.warning("kafka_consumer", group=self._settings["group.id"], cause=failure.name())
            if not records:
                raise KafkaException(failure)

    def _assigned(self, _consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        places = [(partition.topic, partition.partition) for partition in partitions]
        self._forget(places)
        self._owned.update(places)

    def _revoked(self, _consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._forget([(partition.topic, partition.partition) for partition in partitions])

    def _forget(self, places: Sequence[Place]) -> None:
        """*places* are not ours any more, or ours anew: what was read of them is void."""
        gone = set(places)
        self._owned -= gone
        for place in gone:
            self._done.pop(place, None)
            self._next.pop(place, None)
        with self._ahead_lock:
            self._ahead = deque(
                record for record in self._ahead if (self._prefix + record.topic, record.partition) not in gone
            )

    def _failed(self, error: KafkaError) -> None:
        """What concerns no single partition: librdkafka tries on, except after a fatal error."""
        if error.fatal() or error.code() == _FATAL:
            self._fatal = error
        elif error.code() not in self._told:
            self._told.add(error.code())
            logger.warning("kafka_consumer_waits", group=self._settings["group.id"], cause=error.name())


class _Watermarks:
    """How far groups are behind, asked of the broker: by anybody, a member of the group or not.

    By consumers that never join. librdkafka's admin client would ask the same in fewer words, but one that loses its
    broker does not find it again, and version 2.16 has ended the whole process on an assertion then.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka watermarks")
        self._askers: dict[str, Consumer] = {}
        self._partitions: dict[str, int] = {}

    async def lag(self, group: str, topics: Sequence[str]) -> int:
        return await self._asked(lambda: self._on_lag(group, topics))

    async def partitions(self, group: str, topics: Sequence[str]) -> int:
        """How many *topics* have; asked once, as it does not change while anybody reads them."""
        unknown = [topic for topic in topics if topic not in self._partitions]
        if unknown:
            for topic, partition in await self._asked(lambda: _places_of(self._on_asker(group), unknown)):
                self._partitions[topic] = max(self._partitions.get(topic, 0), partition + 1)
        return sum(self._partitions[topic] for topic in topics)

    async def _asked(self, ask: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        # Each question is bounded; together they may take a little longer.
        deadline = loop.time() + 2 * ANSWER_WITHIN_S
        while True:
            try:
                return await loop.run_in_executor(self._thread, ask)
            except KafkaException as failure:
                if failure.args[0].code() not in _MOVING or loop.time() > deadline:
                    raise log_unavailable(failure) from failure
            await asyncio.sleep(ASK_AGAIN_S)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._on_close)
        self._thread.shutdown(wait=False)

    def _on_lag(self, group: str, topics: Sequence[str]) -> int:
        return sum(_left(self._on_asker(group), topics).values())

    def _on_asker(self, group: str) -> Consumer:
        asker = self._askers.get(group)
        if asker is None:
            asker = self._askers[group] = Consumer(
                {**self._settings, "group.id": group, "enable.auto.commit": False, "enable.auto.offset.store": False}
            )
        return asker

    def _on_close(self) -> None:
        askers, self._askers = self._askers, {}
        for asker in askers.values():
            asker.close()


def _places_of(asker: Consumer, topics: Sequence[str]) -> list[Place]:
    """Every partition of *topics*."""
    places: list[Place] = []
    for topic in topics:
        found = asker.list_topics(topic, timeout=ANSWER_WITHIN_S).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        places += [(topic, partition) for partition in found.partitions]
    return places


def _left(asker: Consumer, topics: Sequence[str]) -> dict[Place, int]:
    """Each partition of *topics* to the records that the asker's group has not finished.

    Records that were deleted by age are not waited for.
    """
    places = _places_of(asker, topics)
    committed = _offsets(asker.committed(_partitions(places), timeout=ANSWER_WITHIN_S))
    oldest, newest = (_ends(asker, places, end) for end in (OFFSET_BEGINNING, OFFSET_END))
    return {place: max(0, newest[place] - max(committed[place], oldest[place])) for place in places}


def _ends(asker: Consumer, places: Sequence[Place], end: int) -> dict[Place, int]:
    """The oldest or the next offset of each of *places*."""
    return _offsets(asker.offsets_for_times(_partitions(dict.fromkeys(places, end)), timeout=ANSWER_WITHIN_S))


def _offsets(found: Sequence[TopicPartition]) -> dict[Place, int]:
    for place in found:
        if place.error is not None:
            raise KafkaException(place.error)
    return {(place.topic, place.partition): max(place.offset, 0) for place in found}


def _partitions(places: Mapping[Place, int] | Sequence[Place] | set[Place]) -> list[TopicPartition]:
    if isinstance(places, Mapping):
        return [TopicPartition(topic, partition, offset) for (topic, partition), offset in places.items()]
    return [TopicPartition(topic, partition) for topic, partition in places]


def _is_rebalance(error: KafkaError) -> bool:
    return error.code() in {
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_MEMBER_EPOCH,
    }


def _record(message: Message[bytes, bytes], prefix: int) -> Record:
    """*prefix* is the length of what stands before the topic. Records of strangers may lack a key or a value."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    if topic is None or partition is None or offset is None:
        raise KafkaException(KafkaError(KafkaError._BAD_MSG))  # noqa: SLF001 - librdkafka's own code
    headers = message.headers()
    return Record(
        topic[prefix:],
        partition,
        offset,
        key_of(message.key() or b""),
        message.value() or b"",
        message.timestamp()[1],
        {name: _text(value) for name, value in _pairs(headers)},
    )


def key_of(raw: bytes) -> int:
    """Keys of ours have 8 bytes; a longer one, which only a stranger writes, is brought down to as many."""
    short = raw if len(raw) <= KEY_BYTES else blake2b(raw, digest_size=KEY_BYTES).digest()
    return int.from_bytes(short, "big", signed=True)


def _pairs(headers: Any) -> Sequence[tuple[str, Any]]:
    """Headers as Kafka has them, whatever the stubs think they may be."""
    return headers or ()


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
