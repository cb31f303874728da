"""The journal of a request: which stages it went through, how long each took, what each kept and dropped, and why.

Stages contain no measuring; the flow opens each by name and the journal notes it. From here the notes go to metrics, to
the header `server-timing` and to explanations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from prometheus_client import Counter, Histogram

from foundation.model.clock import Clock

STAGE_SECONDS = Histogram(
    "feedmesh_feed_stage_seconds",
    "Time in one stage of a feed page; who makes reads faster begins with the longest.",
    ["stage"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
STAGE_DROPPED = Counter(
    "feedmesh_feed_dropped_total",
    "Candidates that a stage left out, by reason; a rise of what is hidden tells of lists that hold too much.",
    ["stage", "reason"],
)


class Stage:
    """One stage of one request, open while it runs."""

    __slots__ = ("_began", "_clock", "count", "dropped", "name", "seconds")

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._began = 0.0
        self.seconds = 0.0
        self.count = 0
        """What it kept: candidates or posts."""
        self.dropped: Mapping[str, int] = {}
        """What it did not, by reason."""

    def __enter__(self) -> Self:
        self._began = self._clock.monotonic()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.seconds = self._clock.monotonic() - self._began


class Journal:
    """The stages of one request, in the order in which they were opened. Stages that run at once overlap in time."""

    __slots__ = ("_clock", "stages")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.stages: list[Stage] = []

    def stage(self, name: str) -> Stage:
        """A new stage, for a with statement. Names are few and fixed: they label metrics."""
        stage = Stage(name, self._clock)
        self.stages.append(stage)
        return stage

    def publish(self) -> None:
        """Add the notes to the metrics."""
        for stage in self.stages:
            _seconds_of(stage.name).observe(stage.seconds)
            for reason, number in stage.dropped.items():
                STAGE_DROPPED.labels(stage.name, reason).inc(number)

    def server_timing(self) -> str:
        """The value of a Server-Timing header: per stage milliseconds, what it kept and what it dropped."""
        return ", ".join(
            f'{stage.name};dur={stage.seconds * 1_000:.2f};desc="{" ".join(_described(stage))}"'
            for stage in self.stages
        )


_children: dict[str, Histogram] = {}


def _seconds_of(name: str) -> Histogram:
    # Found by one look-up; the library's own takes a lock and builds a tuple of texts.
    child = _children.get(name)
    if child is None:
        child = _children[name] = STAGE_SECONDS.labels(name)
    return child


def _described(stage: Stage) -> Iterator[str]:
    yield str(stage.count)
    for reason, number in stage.dropped.items():
        yield f"-{number} {reason}"
