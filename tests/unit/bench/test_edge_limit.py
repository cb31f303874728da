"""A benchmark does not run into the edge's limit of requests, or says that it did."""

from __future__ import annotations

import hpack
import pytest

from bench.edge_limit import ALLOWED, MINUTE_S, USED, Minute, require_none_refused, require_seconds
from bench.growth import MOST_PER_S, READERS, bench_growth
from bench.http2 import Http2Connection, edge_limit
from bench.loadgen import WARMUP_S, busiest, user_sequence
from feedmesh_cli.failures import CliError, ExitCode
from foundation.rpc import http2


def answer(*headers: tuple[str, str]) -> bytes:
    """The header block of an answer that has no message."""
    return bytes(hpack.Encoder().encode([(":status", "200"), ("content-type", "application/grpc"), *headers]))


BY_THE_EDGE = answer(
    ("grpc-status", "8"), ("x-ratelimit-limit", "1000, 1000;w=60"), ("x-ratelimit-remaining", "0")
)  # fmt: skip
BY_A_SERVICE = answer(
    ("x-ratelimit-limit", "1000, 1000;w=60"), ("x-ratelimit-remaining", "12"), ("grpc-status", "8")
)  # fmt: skip


@pytest.mark.parametrize(
    ("refusal", "limit"), [(BY_THE_EDGE, 1_000), (BY_A_SERVICE, 0), (b"", 0)], ids=["edge", "service", "nobody"]
)
def test_who_refused_is_read_from_the_answer(refusal: bytes, limit: int) -> None:
    ends: list[int] = []
    connection = Http2Connection(lambda _intended, status, _size: ends.append(status))
    connection.send(b"", b"", 0.0)
    if refusal:
        connection.data_received(http2.frame(http2.HEADERS, http2.END_STREAM | http2.END_HEADERS, 1, refusal))
        assert ends == [8]
    assert edge_limit(connection.refusal) == limit


def test_a_run_that_the_edge_refused_says_so_and_one_that_a_service_refused_does_not() -> None:
    run = {"rejected": 7, "sent": 90_000, "busiest": 1_007}
    with pytest.raises(CliError, match=r"7 requests were refused by the edge's limit of 1,000 a minute per user"):
        require_none_refused({**run, "edge_limit": 1_000})
    require_none_refused({**run, "edge_limit": 0})


@pytest.mark.parametrize("requests", [1, 999, 20_000, 100_003, 250_000])
def test_the_most_active_user_is_counted_as_the_generator_chooses(requests: int) -> None:
    sequence = user_sequence(READERS, 100_003, 0.8, 1)
    sent = [0] * READERS
    for n in range(requests):
        sent[sequence[n % len(sequence)]] += 1
    assert busiest(requests, READERS) == max(sent)


def test_seconds_that_are_too_many_are_refused_with_the_most_that_fit() -> None:
    with pytest.raises(CliError, match="the edge's limit of 1,000 a minute per user") as refused:
        require_seconds(60, users=READERS, rate=MOST_PER_S)
    assert refused.value.code == ExitCode.USAGE
    most = int(refused.value.next_step.split()[1])
    require_seconds(most, users=READERS, rate=MOST_PER_S)
    with pytest.raises(CliError):
        require_seconds(most + 1, users=READERS, rate=MOST_PER_S)
    sent, more = (busiest(round(MOST_PER_S * (s + WARMUP_S)), READERS) for s in (most, most + 1))
    assert sent <= USED * ALLOWED < more


async def test_growth_refuses_before_it_makes_a_world() -> None:
    told: list[str] = []
    with pytest.raises(CliError, match="--seconds 60 is too long"):
        await bench_growth(60, told.append)
    assert not told


@pytest.mark.parametrize("seconds", [2.0, 4.0, 14.0])
def test_runs_wait_for_each_other_so_that_nobody_sends_more_in_any_minute(seconds: float) -> None:
    minute, now_s, waited_s = Minute(), 0.0, 0.0
    sent = busiest(round(MOST_PER_S * (seconds + WARMUP_S)), READERS)
    runs: list[float] = []
    for _ in range(20):
        wait_s = minute.wait_s(now_s, sent)
        waited_s += wait_s
        now_s += wait_s + seconds + WARMUP_S
        minute.ended(now_s, sent)
        runs.append(now_s)
        assert sum(sent for end in runs if end > now_s - MINUTE_S) <= USED * ALLOWED
    assert waited_s > 0, "at this rate the limit is near"
    assert Minute().wait_s(0.0, sent) == 0
