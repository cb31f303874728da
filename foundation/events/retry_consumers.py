"""Consumers of the retry tiers: each hands a record, once it is due, to the handler of the group it is for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from feedmesh.events.v1.envelope_pb2 import Envelope

from foundation.events.consumer import Batch, Burial, Consumer, Handler
from foundation.events.port import EventLog, Record
from foundation.events.retries import DELAY_MS, Postponed, group_of, original
from foundation.model.clock import Clock

MAX_RECORDS = 100


def retry_consumers(
    log: EventLog, *, service: str, handlers: Mapping[str, Handler], clock: Clock, before_burial: Burial | None = None
) -> list[Consumer]:
    """One consumer per tier, of the group `<service>.<topic>`; *handlers* by the group whose records they take."""

    async def handle(batch: Batch) -> Sequence[Postponed]:
        by_group: dict[str, list[tuple[Record, Envelope]]] = defaultdict(list)
        for record, envelope in batch:
            by_group[group_of(record)].append((original(record), envelope))
        postponed: list[Postponed] = []
        for group, theirs in by_group.items():
            handler = handlers.get(group)
            if handler is not None:  # else another service's
                postponed += await handler(theirs) or ()
        return postponed

    return [
        Consumer(
            log,
            group=f"{service}.{topic}",
            topics=[topic],
            handle=handle,
            clock=clock,
            max_records=MAX_RECORDS,
            before_burial=before_burial,
        )
        for topic in DELAY_MS
    ]
