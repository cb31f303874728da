"""Metrics of every RPC. Labels are few and known at start, so that a call costs two look-ups less."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

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
DEGRADED_TOTAL = Counter(
    "feedmesh_degraded_total",
    "Feed answers that were less than perfect, by reason; operators act on a rise.",
    ["reason"],
)


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
