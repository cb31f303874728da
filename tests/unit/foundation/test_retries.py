"""The headers of retry tiers and dead letters may be a stranger's."""

from __future__ import annotations

import pytest

from foundation.events.port import POSTS_CREATED, RETRY_5S, Record
from foundation.events.retries import ATTEMPTS, ORIGIN_OFFSET, ORIGIN_TOPIC, attempts_of, original


@pytest.mark.parametrize("text", ["", "-", "--1", "²", "1e3", " 7", "9" * 5_000, "nan"])
def test_what_is_no_number_counts_as_none(text: str) -> None:
    record = Record(RETRY_5S, 0, 1, 1, b"", 0, {ATTEMPTS: text, ORIGIN_TOPIC: POSTS_CREATED, ORIGIN_OFFSET: text})
    assert attempts_of(record) == 0
    assert (original(record).topic, original(record).offset) == (POSTS_CREATED, 0)


def test_numbers_are_read() -> None:
    record = Record(RETRY_5S, 0, 1, 1, b"", 0, {ATTEMPTS: "3", ORIGIN_TOPIC: POSTS_CREATED, ORIGIN_OFFSET: "-12"})
    assert (attempts_of(record), original(record).offset) == (3, -12)
