"""`feedmesh bench NAME`: figures beside their ceilings, from one run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from feedmesh_cli.failures import CliError, ExitCode

if TYPE_CHECKING:
    from bench.figures import Figure, Report, Table

FANOUT = "fanout"
POLICIES = "policies"
GROWTH = "growth"
USERS = 100_000
FOLLOWS_IN_POLICIES = 20
SECONDS = 8.0
READERS = 1_000
FOLLOWS = 200
PULLED = 5
CANCEL_AGAIN_S = 3.0
T = TypeVar("T")


def bench(
    name: Annotated[str, typer.Argument(help="One of those that `list` tells.")],
    seconds: Annotated[float, typer.Option(help="How long each figure is measured.")] = SECONDS,
    readers: Annotated[int, typer.Option(help="Users whose tokens take turns.", min=10)] = READERS,
    follows: Annotated[int, typer.Option(help="How many each follows.", min=1)] = FOLLOWS,
    pulled: Annotated[
        int, typer.Option(help="How many of these are pulled: authors whom all readers follow.", min=0)
    ] = PULLED,
    users: Annotated[int, typer.Option(help="policies: users of the made-up world.", min=5_000)] = USERS,
    profile: Annotated[str, typer.Option(help="embedded or cluster: what the mesh is made of.")] = "embedded",
    no_recommendations: Annotated[
        bool, typer.Option("--no-recommendations", help="Of a mesh that recommends nothing.")
    ] = False,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Start a mesh of its own with the reference model, load it, measure, print. Takes 3 minutes, policies 8."""
    try:
        from bench.fanout import bench_fanout
        from bench.figures import Report
        from bench.growth import bench_growth
        from bench.policies import bench_policies
        from bench.scenarios import BENCHES
        from bench.testbed import testbed
    except ImportError as missing:
        raise CliError(
            f"the benchmarks need {missing.name}",
            cause="only what running needs is installed",
            next_step="make test installs the rest; so does .venv/bin/uv sync --locked --inexact",
        ) from missing
    if name == "list":
        for known, one in BENCHES.items():
            print(f"{known:10} {one.about}")
        print(f"{FANOUT:10} deliveries of one worker into three Valkeys, without a mesh around them")
        print(f"{GROWTH:10} CPU of a page as the graph, the follows of its viewer and the history grow 100 times")
        print(
            f"{POLICIES:10} CPU of hybrid, push-only and pull-only on a power law of --users, and of other thresholds"
        )
        return
    if profile not in ("embedded", "cluster"):
        raise CliError(f"there is no profile {profile!r}", next_step="--profile cluster", code=ExitCode.USAGE)
    if name in BENCHES and pulled >= follows:
        raise CliError(f"--pulled {pulled} is not a part of --follows {follows}", code=ExitCode.USAGE)
    if name not in {*BENCHES, FANOUT, POLICIES, GROWTH}:
        raise CliError(f"no benchmark {name!r}", next_step="feedmesh bench list", code=ExitCode.USAGE)

    def tell(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    async def run() -> tuple[list[Figure], list[Table]]:
        if name == FANOUT:
            return await bench_fanout(seconds, tell), []
        if name == GROWTH:
            return await bench_growth(seconds, tell), []
        if name == POLICIES:
            return await bench_policies(users=users, follows=FOLLOWS_IN_POLICIES, seconds=seconds, tell=tell)
        async with testbed(
            users=readers,
            follows=follows,
            pulled=pulled,
            tell=tell,
            profile=profile,
            recommendations=not no_recommendations,
        ) as bed:
            return await BENCHES[name].run(bed, seconds, tell), []

    made_of = f"--users {users}" if name == POLICIES else f"--profile {profile}"
    made_of += f" --pulled {pulled}" if name in BENCHES else ""
    made_of += " --no-recommendations" if no_recommendations else ""
    figures, tables = asyncio.run(_until_ended(run()))
    report = Report(command=f"feedmesh bench {name} --seconds {seconds:g} {made_of}", figures=figures, tables=tables)
    if save is not None:
        save.write_text(report.as_json() + "\n", encoding="utf-8")
    print(report.as_json() if json else _table(report), flush=True)


async def _until_ended(work: Coroutine[Any, Any, T]) -> T:
    """What *work* returns; SIGTERM or Ctrl-C ends it, and it takes its mesh along. Raises KeyboardInterrupt then."""
    from foundation.runtime.run import watch_signals

    ended = asyncio.Event()
    watch_signals(ended)
    task = asyncio.create_task(work, name="benchmark")
    signalled = asyncio.create_task(ended.wait(), name="signals")
    try:
        await asyncio.wait([task, signalled], return_when=asyncio.FIRST_COMPLETED)
        while not task.done():
            # More than once: of thirty that were cancelled while they loaded their world two went on.
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
    finally:
        signalled.cancel()
    if task.cancelled():
        raise KeyboardInterrupt
    return task.result()


def _table(report: Report) -> str:
    lines = [f"{report.command}   commit {report.commit}   {report.machine['cores']} cores", ""]
    for one in report.figures:
        share = f"{one.share:7.1%} of {one.ceiling:,.0f}" if one.share is not None else ""
        lines.append(f"  {one.name:34} {one.value:12,.1f} {one.unit:12} {share}")
    lines += [text for table in report.tables for text in ("", table.as_text())]
    return "\n".join(lines)
