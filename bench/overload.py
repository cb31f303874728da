"""What is left of the first page when far more is asked than the mesh can serve, and how soon it is well again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from feedmesh.feed.v1 import feed_service_pb2 as feed_pb

from bench.figures import Figure, figure
from bench.testbed import GET_FEED, Tell, Testbed

IN_FLIGHT = 16
STEADY = 0.6
"""Of the peak: the load whose latency is the measure."""
AFTER = 0.7
"""Of the peak: the load after the overload."""
AFTER_S = 30.0
WELL = 0.99
"""Part of a second's requests that are answered when all is well."""
IN_A_ROW = 3
"""Seconds that must be well before it counts."""
SLOWER = 2.0
"""Times its value under the steady load: how slow an accepted page may be."""
WARMUP_S = 2.0


async def bench_overload(bed: Testbed, seconds: float, tell: Tell) -> list[Figure]:
    """Peak, steady, 1.5 times, 3 times and after, peak again."""
    figures = [figure("load_average", os.getloadavg()[0], "processes")]
    body = feed_pb.GetFeedRequest(limit=20).SerializeToString()
    requests = bed.requests([body] * len(bed.tokens))
    runs: list[dict[str, Any]] = []

    async def run(**plan: Any) -> dict[str, Any]:
        result = await bed.generate(GET_FEED, requests, warmup_s=WARMUP_S, connections=8, **plan)
        runs.append(result)
        return result

    tell("peak of the first page")
    peak = (await run(mode="closed", in_flight=IN_FLIGHT, seconds=seconds))["rate"]
    tell(f"open loop at {STEADY * peak:.0f}/s")
    steady = await run(mode="open", rate=STEADY * peak, seconds=seconds * 2)
    tell(f"open loop at {1.5 * peak:.0f}/s")
    more = await run(mode="open", rate=1.5 * peak, seconds=seconds * 2)
    tell(f"open loop at {3 * peak:.0f}/s")
    most = await run(mode="open", rate=3 * peak, seconds=seconds * 2)
    tell(f"the same, then {AFTER * peak:.0f}/s")
    fall = await bed.generate(
        GET_FEED, requests, warmup_s=WARMUP_S, connections=8, mode="open", rate=3 * peak, seconds=seconds,
        then=(AFTER * peak, AFTER_S), by_second=True,
    )  # fmt: skip
    tell("peak, again")
    best = max(peak, (await run(mode="closed", in_flight=IN_FLIGHT, seconds=seconds))["rate"])
    figures += [
        figure("peak", peak, "requests/s"),
        figure("peak_again", runs[-1]["rate"], "requests/s"),
        figure("steady_p50", steady["p50_ms"], "ms"),
        figure("steady_p99", steady["p99_ms"], "ms"),
        figure("steady_rejected", steady["rejected"] + steady["failed"], "requests"),
    ]
    for name, result in (("at_1.5x", more), ("at_3x", most)):
        figures += [
            figure(name, result["rate"], "requests/s", ceiling=best),
            figure(f"{name}_rejected", result["rejected"] / result["seconds"], "requests/s"),
            figure(f"{name}_failed", result["failed"] / result["seconds"], "requests/s"),
            figure(f"{name}_p50", result["p50_ms"], "ms"),
            figure(f"{name}_p99", result["p99_ms"], "ms", ceiling=steady["p99_ms"]),
            figure(f"{name}_cpu_generator", result["generator_us"] * result["rate"] / 1e6, "cores"),
        ]
    recovered_s = _recovered_s(fall["by_second"][round(seconds) :], SLOWER * steady["p99_ms"])
    figures.append(figure("recovery", recovered_s, "s"))
    figures += [
        figure(f"cpu_per_rejection_{process}", used, "µs/request")
        for process, used in _per_rejection([result for result in runs if result is not steady]).items()
    ]
    return figures


def _recovered_s(seconds: Sequence[dict[str, float]], slowest_ms: float) -> float:
    """After how many seconds so many in a row are well; all of them when none are."""
    well = [second["answered"] >= second["sent"] * WELL and second["p99_ms"] <= slowest_ms for second in seconds]
    for second in range(len(well) - IN_A_ROW + 1):
        if all(well[second : second + IN_A_ROW]):
            return float(second)
    return float(len(well))


def _per_rejection(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """CPU of one rejection in each process of the mesh, and in all.

    What a process used in each run is so many pages and so many rejections: the two costs that fit all runs best. Only
    of busy ones: an idle mesh serves fewer calls per turn, and each costs more.
    """
    counts = [(run["answered"], run["rejected"], run["failed"]) for run in runs]
    shares = np.array([(answered, rejected) for answered, rejected, _ in counts]) / [[sum(count)] for count in counts]
    costs = {}
    for process in runs[0]["cpu_us"]:
        if process != "supervisor":
            fitted, *_ = np.linalg.lstsq(shares, np.array([run["cpu_us"][process] for run in runs]), rcond=None)
            costs[process] = float(fitted[1])
    return costs | {"all": sum(costs.values())}
