"""`feedmesh bench policies`: what hybrid, push-only and pull-only cost in CPU, and at which threshold that is least.

A threshold is the number of followers from which an author is pulled. The same calls are offered at each: first pages
of the ranked feed and new posts, 90 to 10, at a rate well below what the machine can serve. Who posts decides more than
who is followed: one mix lets everybody post alike, the other everybody in proportion to their followers.

Thresholds are gone through down and up again, so that a machine whose speed drifts favours none of them; figures are
means of both, and how far the two lie apart says which differences mean anything.
"""

from __future__ import annotations

import os
from collections import defaultdict
from statistics import mean

from bench.figures import Figure, Table, figure
from bench.policies_bed import NOBODY, PoliciesBed, Threshold, policies_bed
from bench.testbed import Tell
from foundation.model.tiers import PULL_FROM

READS_PER_S, WRITES_PER_S = 180.0, 20.0
PER_CALLS = 1_000
"""Answered ones."""
SWEEP = (NOBODY, PULL_FROM, 3_000, 1_000, 100, 1)
IDLE_S = 5.0
TRIES = 3
MOST_FAILED = 0.01
"""Of the calls: what is refused costs less than what is answered, and says nothing about a policy."""
POLICIES = {PULL_FROM: "hybrid", NOBODY: "push_only", 1: "pull_only"}

Runs = dict[tuple[str, int], list[dict[str, float]]]
"""(mix, threshold) to the CPU of each process, once for each time."""


async def bench_policies(*, users: int, follows: int, seconds: float, tell: Tell) -> tuple[list[Figure], list[Table]]:
    """All thresholds, twice."""
    figures = [figure("load_average", os.getloadavg()[0], "processes")]
    runs: Runs = defaultdict(list)
    failed = 0
    async with policies_bed(users=users, follows=follows, tell=tell) as bed:
        counts = bed.world.follower_counts()
        figures += [
            figure("most_followers", float(counts.max()), "followers"),
            figure("authors_pulled_by_default", float((counts >= PULL_FROM).sum()), "authors"),
            *(figure(f"followers_per_post_{mix.name}", mix.followers, "followers") for mix in bed.mixes),
        ]
        for pull_from in (*SWEEP, *SWEEP[-2::-1]):
            tell(f"{_row(pull_from)}: timelines and services")
            async with bed.running(Threshold.of(pull_from)):
                if not runs:
                    idle_s = sum((await bed.idle(IDLE_S)).values()) / IDLE_S
                    figures.append(figure("idle_cpu", idle_s * PER_CALLS / (READS_PER_S + WRITES_PER_S) * 1e3, "ms"))
                # Nothing changes at the turn: the second time is the same services'.
                for _ in range(2 if pull_from == SWEEP[-1] else 1):
                    failed += await _offer_each(bed, pull_from, seconds, runs, tell)
        figures.append(figure("failed", failed, "calls"))
    for mix in bed.mixes:
        figures += _verdict(mix.name, runs)
    return figures, [_table(mix.name, runs) for mix in bed.mixes]


async def _offer_each(bed: PoliciesBed, pull_from: int, seconds: float, runs: Runs, tell: Tell) -> int:
    """Both mixes; how many calls failed in what is counted."""
    failed = 0
    for mix in bed.mixes:
        for _ in range(TRIES):
            tell(f"{_row(pull_from)}: mix {mix.name}")
            used, wrong = await bed.offer(mix, reads=READS_PER_S, writes=WRITES_PER_S, seconds=seconds)
            calls = (READS_PER_S + WRITES_PER_S) * seconds
            if wrong <= calls * MOST_FAILED:
                break
            tell(f"{wrong} of {calls:.0f} calls failed: the machine was busy with something else; again")
        cost = {process: one * 1e3 * PER_CALLS / (calls - wrong) for process, one in used.items()}
        runs[mix.name, pull_from].append(cost | {"all": sum(cost.values())})
        failed += wrong
    return failed


def _row(pull_from: int) -> str:
    if pull_from == PULL_FROM:
        return f"hybrid, pull from {PULL_FROM}"
    return POLICIES.get(pull_from, f"pull from {pull_from}")


def _table(mix: str, runs: Runs) -> Table:
    rows = {
        _row(pull_from): {process: round(mean(run[process] for run in both), 1) for process in both[0]}
        for (of_mix, pull_from), both in runs.items()
        if of_mix == mix
    }
    title = f"CPU per {PER_CALLS} calls answered, {READS_PER_S:g} reads to {WRITES_PER_S:g} posts a second, mix {mix}"
    return Table(title=title, unit="ms", rows=rows)


def _verdict(mix: str, runs: Runs) -> list[Figure]:
    """Each policy beside the least that was found, where that was, and how far two runs of the same lie apart."""
    both = {pull_from: [run["all"] for run in runs[mix, pull_from]] for pull_from in SWEEP}
    totals = {pull_from: mean(found) for pull_from, found in both.items()}
    cheapest = min(totals, key=totals.__getitem__)
    least = totals[cheapest]
    return [
        *(
            figure(f"cpu_{policy}_{mix}", totals[pull_from], "ms", ceiling=least)
            for pull_from, policy in POLICIES.items()
        ),
        figure(f"least_cpu_{mix}", least, f"ms, {_row(cheapest)}"),
        figure(f"apart_{mix}", 100 * mean((max(two) - min(two)) / mean(two) for two in both.values()), "percent"),
    ]
