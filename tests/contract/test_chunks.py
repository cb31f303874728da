"""The contract of the queue of deliveries (fanout_worker.ports.Chunks), over the SQL log and over Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from fanout_worker.adapters.chunks_log import LogChunks
from fanout_worker.edge.records import ChunkRecords
from fanout_worker.flows.deliver_chunks import DeliverChunks
from fanout_worker.model import Chunk
from foundation.events.envelope import decode
from foundation.events.kafka_log import kafka_log
from foundation.events.kafka_topics import TopicSpec, apply_topics
from foundation.events.port import FEED_FANOUT, EventLog, Record
from foundation.events.sql_log import LOG_TABLES, SqlEventLog
from foundation.model.clock import SystemClock
from foundation.sql.database import open_database
from tests.kit.eventually import eventually
from tests.kit.kafka import Kafkas

GROUP = "fanout.chunks"
TESTS = count()
PARTITIONS = 3


@pytest.fixture(params=["sqlite", "kafka"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    if request.param == "sqlite":
        async with open_database(f"sqlite:///{tmp_path}/log.db", LOG_TABLES) as database:
            yield SqlEventLog(database, SystemClock())
        return
    kafkas: Kafkas = request.getfixturevalue("kafkas")
    servers: str = request.getfixturevalue("kafka")
    prefix = f"chunks{next(TESTS)}."
    topic = TopicSpec(name=prefix + FEED_FANOUT, partitions=PARTITIONS)
    await kafkas.call_from_loop(apply_topics(servers, topics=[topic]))
    async with kafka_log(servers, SystemClock(), prefix=prefix) as opened:
        yield opened


def chunk(number: int, *, followers: int = 1_000, author_id: int = 2**62) -> Chunk:
    return Chunk(
        author_id=author_id,
        post_ids=[2**62 + 1, 2**63 - 1],
        followers=np.arange(1, followers + 1, dtype=np.int64) * 2**50,
        number=number,
        last=number == 9,
        created_ms=1_700_000_000_123,
        rate_limited=number % 2 == 0,
        pulled=number % 3 == 0,
    )


class Kept(DeliverChunks):
    """Takes chunks and does nothing with them."""

    __slots__ = ("chunks",)

    def __init__(self) -> None:
        object.__setattr__(self, "chunks", [])

    async def __call__(self, chunks: Sequence[Chunk]) -> Sequence[int]:
        self.chunks.extend(chunks)
        return ()


async def read(log: EventLog, wanted: int) -> list[Record]:
    records: list[Record] = []

    async def enough() -> bool:
        records.extend(await log.poll(GROUP, [FEED_FANOUT], max_records=100, wait_s=0.1))
        return len(records) >= wanted

    await eventually(enough, timeout_s=20)
    return records


async def test_chunks_come_out_as_they_went_in(log: EventLog) -> None:
    chunks = [chunk(number) for number in range(1, 10)] + [chunk(1, followers=1, author_id=7)]
    await LogChunks(log, GROUP).append(chunks)
    records = await read(log, len(chunks))
    kept = Kept()
    await ChunkRecords(kept)([(record, decode(record.value)) for record in records])
    came = {(one.author_id, one.number): one for one in kept.chunks}
    assert len(came) == len(kept.chunks) == len(chunks)
    for one in chunks:
        other = came[one.author_id, one.number]
        assert other.followers.tolist() == one.followers.tolist()
        assert (other.post_ids, other.last, other.created_ms) == (one.post_ids, one.last, one.created_ms)
        assert (other.rate_limited, other.pulled) == (one.rate_limited, one.pulled)


async def test_an_authors_chunks_are_spread_over_the_partitions(log: EventLog) -> None:
    await LogChunks(log, GROUP).append([chunk(number, followers=1) for number in range(1, 31)])
    partitions = {record.partition for record in await read(log, 30)}
    assert partitions == ({0} if isinstance(log, SqlEventLog) else set(range(PARTITIONS)))


async def test_who_works_alone_has_the_whole_queue(log: EventLog) -> None:
    queue = LogChunks(log, GROUP)
    await queue.append([chunk(1)])
    await read(log, 1)
    assert await queue.share() == 1.0
