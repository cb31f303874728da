"""Two worker processes in one group beside one, from chunk records on a Kafka of our own: its partitions are shared.

Where the machine has no cores left for a second worker, its deliveries a second say nothing about workers: then the
CPU of a worker per delivery, with one and with two, tells what a second adds. Both are printed, and which one counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.fanout_bed import CLOCK, FanoutBed, Tell, cpu_s, fanout_bed
from bench.figures import Figure, figure
from feedmesh_cli.children import Child
from feedmesh_cli.engines.jars import class_paths
from feedmesh_cli.engines.java import find_java
from feedmesh_cli.engines.kafka import KafkaServer
from feedmesh_cli.failures import CliError
from feedmesh_cli.ports import free_ports
from foundation.events.kafka_topics import apply_topics

DELIVERIES = 1_000_000
WARM_UP = 200_000
"""Deliveries before measuring: also the time in which the group hands partitions to a new worker."""
ASKED = 1.6
"""Times the deliveries of one worker that two are to make, where cores allow."""
RECORDS_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What so many deliveries took."""

    seconds: float
    workers_s: Sequence[float]
    """CPU of each."""
    others_s: float
    """CPU of the Valkeys and the broker."""

    @property
    def rate(self) -> float:
        return DELIVERIES / self.seconds

    @property
    def cores(self) -> float:
        """How many were busy with it, the appending benchmark aside."""
        return (sum(self.workers_s) + self.others_s) / self.seconds

    def us_per_delivery(self) -> float:
        return sum(self.workers_s) * 1e6 / DELIVERIES

    def us_of_all_per_delivery(self) -> float:
        return (sum(self.workers_s) + self.others_s) * 1e6 / DELIVERIES


async def bench_worker_pair(tell: Tell) -> list[Figure]:
    """Figures of one worker and of two; none where there is no Java or no broker."""
    try:
        async with _own_kafka() as (servers, kafka), fanout_bed(tell, log_url=f"kafka://{servers}") as bed:
            tell(f"one worker on Kafka: {DELIVERIES} deliveries in chunks")
            one = await _measured(bed, [bed.worker], kafka)
            tell("two workers in one group")
            two = await _measured(bed, [bed.worker, await bed.start_worker()], kafka)
    except CliError as missing:
        tell(f"two workers are not measured: {missing}")
        return []
    cores = psutil.cpu_count() or 1
    allowed = one.cores * ASKED <= cores
    tell(
        f"one worker kept {one.cores:.2f} of {cores} cores busy, Valkeys and Kafka included: what counts is "
        + ("deliveries a second" if allowed else f"CPU per delivery, {ASKED:g} times as many need more cores than that")
    )
    return [
        figure("one_worker", one.rate, "deliveries/s"),
        figure("two_workers", two.rate, "deliveries/s", ceiling=one.rate),
        figure("one_worker_cores", one.cores, "cores", ceiling=cores),
        figure("two_workers_cores", two.cores, "cores", ceiling=cores),
        figure("one_worker_cpu", one.us_per_delivery(), "µs/delivery"),
        figure("two_workers_cpu", two.us_per_delivery(), "µs/delivery", ceiling=one.us_per_delivery()),
        figure("one_worker_cpu_of_all", one.us_of_all_per_delivery(), "µs/delivery"),
        figure(
            "two_workers_cpu_of_all", two.us_of_all_per_delivery(), "µs/delivery", ceiling=one.us_of_all_per_delivery()
        ),
        figure("second_worker_part", two.workers_s[1] / sum(two.workers_s), "of the work"),
        figure("cores_allow_two_workers", float(allowed), "yes or no"),
    ]


async def _measured(bed: FanoutBed, workers: Sequence[Child], kafka: Child) -> _Run:
    await _delivered(bed, WARM_UP)
    others = [*bed.valkeys, kafka.pid]
    workers_s = [cpu_s(worker.pid) for worker in workers]
    others_s = sum(map(cpu_s, others))
    seconds = await _delivered(bed, DELIVERIES)
    return _Run(
        seconds=seconds,
        workers_s=[cpu_s(worker.pid) - before for worker, before in zip(workers, workers_s, strict=True)],
        others_s=sum(map(cpu_s, others)) - others_s,
    )


async def _delivered(bed: FanoutBed, deliveries: int) -> float:
    """Seconds from the first chunk's append until all are done. Appending takes a fraction of that."""
    chunks = deliveries // 1_000
    started = CLOCK.monotonic()
    for start in range(0, chunks, RECORDS_AT_ONCE):
        await bed.log.append([bed.chunk(place) for place in range(start, min(chunks, start + RECORDS_AT_ONCE))])
    await bed.drained()
    return CLOCK.monotonic() - started


@asynccontextmanager
async def _own_kafka() -> AsyncIterator[tuple[str, Child]]:
    """Address of a broker with feedmesh's topics, and its process. Raises CliError where it cannot be had."""
    java = find_java().command
    classes = (await class_paths(["kafka"], lambda _done, _all: None))["kafka"]
    with tempfile.TemporaryDirectory(prefix="feedmesh-bench-") as scratch:
        port, controller = free_ports(2)
        server = KafkaServer(java, classes)
        try:
            await server.launch(Path(scratch), port, controller)
            await server.ready()
            servers = f"127.0.0.1:{port}"
            await apply_topics(servers)
            yield servers, server.child
        finally:
            await server.stop()
