"""Retry tiers and dead letters: the formats of records that could not be handled at once.

Four topics for all groups: a record says in its headers where it came from, for whom it is, how often it was tried and
why it is here. Order per key is lost in them, so only effects that need no order use them: ours compare versions or
insert by id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from foundation.errors import DomainError
from foundation.events.port import DEAD_LETTERS, RETRY_1M, RETRY_5S, RETRY_10M, Event, Record

DELAY_MS: Mapping[str, int] = {RETRY_5S: 5_000, RETRY_1M: 60_000, RETRY_10M: 600_000}
"""Retry topic to how long its records wait, from when they were appended."""
_A_NUMBER = re.compile(r"-?[0-9]{1,18}")
_LADDER = (RETRY_5S, RETRY_1M, RETRY_10M, DEAD_LETTERS)

ORIGIN_TOPIC = "x-orig-topic"
ORIGIN_PARTITION = "x-orig-partition"
ORIGIN_OFFSET = "x-orig-offset"
ORIGIN_TIMESTAMP = "x-orig-timestamp"
GROUP = "x-group"
ERROR_CLASS = "x-error-class"
ATTEMPTS = "x-attempts"


@dataclass(slots=True, frozen=True)
class Postponed:
    """A record that shall be tried again later."""

    record: Record
    reason: str
    """Stable UPPER_SNAKE."""
    counted: bool = True
    """False where the record is not to blame: it stays in the shortest tier for as long as it takes."""


def retry_event(postponed: Postponed, group: str) -> Event:
    """The record of the tier that *postponed* goes to; of the dead letters once it climbed all of them."""
    record = postponed.record
    tried = attempts_of(record)
    topic = _LADDER[min(tried, len(_LADDER) - 1)] if postponed.counted else RETRY_5S
    headers = _headers(record, group, postponed.reason, tried + 1 if postponed.counted else tried)
    return Event(topic, record.key, record.value, headers)


def dead_letter(record: Record, group: str, failure: Exception, *, tries: int) -> Event:
    """The record of the dead letters that says what happened to *record*."""
    reason = failure.reason if isinstance(failure, DomainError) else type(failure).__name__
    return Event(DEAD_LETTERS, record.key, record.value, _headers(record, group, reason, attempts_of(record) + tries))


def attempts_of(record: Record) -> int:
    """How often the record was tried before it came here."""
    return max(0, _number(record, ATTEMPTS))


def due_ms(record: Record) -> int:
    """When a record of a retry topic may be handled, in ms since 1970; 0 for records of other topics."""
    delay = DELAY_MS.get(record.topic)
    return record.timestamp_ms + delay if delay is not None else 0


def group_of(record: Record) -> str:
    """Whose record it is; empty where nobody said."""
    return record.headers.get(GROUP, "")


def original(record: Record) -> Record:
    """The record as it was where it came from, with the headers that tell its story."""
    topic = record.headers.get(ORIGIN_TOPIC)
    if topic is None:
        return record
    return replace(
        record,
        topic=topic,
        partition=_number(record, ORIGIN_PARTITION),
        offset=_number(record, ORIGIN_OFFSET),
        timestamp_ms=_number(record, ORIGIN_TIMESTAMP),
    )


def _number(record: Record, name: str) -> int:
    """0 for whatever a stranger may write there."""
    text = record.headers.get(name, "0")
    return int(text) if _A_NUMBER.fullmatch(text) else 0


def _headers(record: Record, group: str, reason: str, attempts: int) -> dict[str, str]:
    origin = {
        ORIGIN_TOPIC: record.topic,
        ORIGIN_PARTITION: str(record.partition),
        ORIGIN_OFFSET: str(record.offset),
        ORIGIN_TIMESTAMP: str(record.timestamp_ms),
    }
    return {**origin, GROUP: group, **record.headers, ERROR_CLASS: reason, ATTEMPTS: str(attempts)}
