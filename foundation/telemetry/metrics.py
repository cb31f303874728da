"""Metrics of every RPC. Labels are few and known at start, so that a call costs two look-ups less."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

RPC_SECONDS = Histogram(
    "feedmesh_rpc_duration_seconds",
    "Time from the request's arrival to its answer; the service's owner acts on its p99.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
RPC_TOTAL = Counter(
    "feedmesh_rpc_requests_total",
    "Answers by status code; operators act on INTERNAL and UNAVAILABLE.",
    ["method", "code"],
)
RPC_SHED_TOTAL = Counter(
    "feedmesh_rpc_shed_total",
    "RPCs refused because the server was full, by priority; operators add processes, and look at once at CRITICAL.",
    ["priority"],
)
DEGRADED_TOTAL = Counter(
    "feedmesh_degraded_total",
    "Feed answers that were less than perfect, by reason; operators act on a rise.",
    ["reason"],
)

ACTIVE_USERS = Gauge(
    "feed_active_users",
    "Users who read a feed since the day began (UTC), about; operators size the fan-out by it.",
)
FEED_WATCHERS = Gauge(
    "feedmesh_feed_watchers",
    "Open streams of WatchFeed; operators add processes as it nears max_watchers times the number of processes.",
)
OUTBOX_EVENTS = Gauge(
    "feedmesh_outbox_events",
    "Acknowledged events that are not known to be in the log; operators look at the log when it does not fall to 0.",
    ["outbox"],
)
OUTBOX_SLOTS = Gauge(
    "feedmesh_outbox_slots",
    "Sweep slots that may hold acknowledged events nobody counted, NaN while they are not listed; as the events.",
    ["outbox"],
)
RECORDS_IGNORED = Counter(
    "feedmesh_records_ignored_total",
    "Records that decode but make no sense and were left out; whoever owns the topic's writer acts on any.",
    ["topic", "reason"],
)


class WeightedHistogram(Collector):
    """A histogram of what happens by the thousand at once: a thousand equal observations cost one addition."""

    def __init__(self, name: str, about: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._about = about
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def add(self, value: float, times: int) -> None:
        """*value* was observed so many *times*."""
        self._counts[bisect_left(self._buckets, value)] += times
        self._sum += value * times

    def share_up_to(self, bucket: float) -> float:
        """The part of all observations that were at most *bucket*, one of the borders; 1 when there were none."""
        total = sum(self._counts)
        return sum(self._counts[: self._buckets.index(bucket) + 1]) / total if total else 1.0

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        borders = [*map(str, self._buckets), "+Inf"]
        family = HistogramMetricFamily(self._name, self._about)
        family.add_metric([], list(zip(borders, accumulate(self._counts), strict=True)), self._sum)
        yield family


FRESH_S = 30.0
"""Age up to which a post that reaches a timeline is fresh (seed section 13)."""
FRESHNESS = WeightedHistogram(
    "feed_freshness_seconds",
    "Age of posts when they reach a timeline, once per timeline; operators act when the share up to 30 s falls.",
    (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, FRESH_S, 60.0, 300.0, 1_800.0, 86_400.0),
)
FRESH_SHARE = Gauge(
    "feed_fresh_share", "Part of the deliveries of this process whose post was at most 30 s old, since it started."
)
FRESH_SHARE.set_function(lambda: FRESHNESS.share_up_to(FRESH_S))

FANOUT_LAG_SECONDS = Gauge(
    "fanout_lag_seconds",
    "Age of the oldest record that the whole fan-out has not finished; autoscalers act.",
)
FANOUT_LAG_DELIVERIES = Gauge("fanout_lag_deliveries", "Deliveries that the whole group has not done; autoscalers act.")
FANOUT_LEVEL = Gauge("fanout_level", "0-3, what the fan-out does about being behind; operators act on 1 and above.")

AUDIT_CHECKED = Counter(
    "feed_audit_checked_total",
    "Feeds in which the audit looked for a post, by time since it was made.",
    ["window"],
)
AUDIT_VIOLATIONS = Counter(
    "feed_audit_violations_total",
    "Feeds that lacked a post so long after it was made; operators act on any, at once in the last window.",
    ["window"],
)
AUDIT_UNKNOWN = Counter("feed_audit_unknown_total", "Looks that failed, as somebody did not answer.")


class MethodMetrics:
    """The metrics of one RPC, labels resolved."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._seconds = RPC_SECONDS.labels(method)
        self._ok = RPC_TOTAL.labels(method, "OK")

    def ok(self, seconds: float) -> None:
        """An answer."""
        self._seconds.observe(seconds)
        self._ok.inc()

    def failed(self, seconds: float, code: str) -> None:
        """An error."""
        self._seconds.observe(seconds)
        RPC_TOTAL.labels(self._method, code).inc()

    def shed(self, priority: str) -> None:
        """A refusal of a full server; it has no duration worth counting."""
        RPC_TOTAL.labels(self._method, "RESOURCE_EXHAUSTED").inc()
        RPC_SHED_TOTAL.labels(priority).inc()
