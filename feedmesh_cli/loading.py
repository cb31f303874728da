"""Loads users, follows and posts into a running mesh by the import calls, then waits until all is delivered."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Self, TypeVar

from feedmesh.graph.v1 import graph_internal_service_pb2 as graph_pb
from feedmesh.graph.v1 import graph_internal_service_pb2_grpc as graph_rpc
from feedmesh.post.v1 import post_internal_service_pb2 as post_pb
from feedmesh.post.v1 import post_internal_service_pb2_grpc as post_rpc

from feedmesh_cli.complaints import complaints
from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.mesh_file import Mesh
from feedmesh_cli.mesh_status import ServicesStatus, as_text, read_status
from feedmesh_cli.world import MadeUpPost
from foundation.model.clock import SystemClock
from foundation.rpc.channels import internal_channel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

USERS_PER_CALL = 2_000
FOLLOWS_PER_CALL = 5_000
POSTS_PER_CALL = 1_000
CALL_TIMEOUT_S = 60.0
DRAIN_STALL_S = 60.0
"""How long nothing may be published or handled before waiting for it is given up; sweepers need up to 45 s."""


@dataclass(frozen=True)
class Loaded:
    """What a load did."""

    users: int
    follows: int
    """Those that did not exist before."""
    posts: int
    seconds: float


async def load(mesh: Mesh, usernames: Sequence[str], follows: NDArray[np.int64], posts: Sequence[MadeUpPost]) -> Loaded:
    """Loads all of it: users, then follows, then posts; returns once every consumer has caught up.

    *follows* and the authors of *posts* are indexes into *usernames*. Users and follows that exist are kept; posts are
    written again by a second load.
    """
    import numpy as np

    clock = SystemClock()
    started = clock.monotonic()
    with progress() as bar:
        async with internal_channel(mesh.services["graph_svc"], mesh.internal_key) as channel:
            graph = graph_rpc.GraphInternalServiceStub(channel.grpc)
            user_ids: list[int] = []
            for names in bar.track(_batches(usernames, USERS_PER_CALL), total=len(usernames), what="users"):
                request = graph_pb.ImportUsersRequest(usernames=names)
                answer = await channel.call(graph.ImportUsers, request, CALL_TIMEOUT_S)
                user_ids.extend(answer.user_ids)
            ids = np.array(user_ids, dtype="<i8")
            created = 0
            parts = (follows[i : i + FOLLOWS_PER_CALL] for i in range(0, len(follows), FOLLOWS_PER_CALL))
            for part in bar.track(parts, total=len(follows), what="follows"):
                pairs = graph_pb.ImportFollowsRequest(
                    follower_ids=ids[part[:, 0]].tobytes(), followee_ids=ids[part[:, 1]].tobytes()
                )
                created += (await channel.call(graph.ImportFollows, pairs, CALL_TIMEOUT_S)).created
        async with internal_channel(mesh.services["post_svc"], mesh.internal_key) as channel:
            stub = post_rpc.PostInternalServiceStub(channel.grpc)
            for batch in bar.track(_batches(posts, POSTS_PER_CALL), total=len(posts), what="posts"):
                imported = [
                    post_pb.ImportedPost(author_id=user_ids[p.author], caption=p.caption, hashtags=p.hashtags)
                    for p in batch
                ]
                await channel.call(stub.ImportPosts, post_pb.ImportPostsRequest(posts=imported), CALL_TIMEOUT_S)
        await drained(mesh, bar)
    return Loaded(len(usernames), created, len(posts), round(clock.monotonic() - started, 2))


async def drained(mesh: Mesh, bar: Progress) -> None:
    """Waits until all is published and no consumer group has lag.

    Raises CliError when nothing is published or handled for DRAIN_STALL_S.
    """
    clock = SystemClock()
    before, since = (sys.maxsize, sys.maxsize), clock.monotonic()
    most = 0
    while not (found := await read_status(mesh)).settled:
        # What is published becomes lag, and more of it than waited: a sweeper publishes whole slots again.
        left = (found.to_publish, sum(found.lag.values()))
        most = max(most, sum(left))
        bar.show("deliveries", done=most - sum(left), total=most)
        if left[0] < before[0] or left[1] < before[1]:
            since = clock.monotonic()
        elif clock.monotonic() - since > DRAIN_STALL_S:
            raise _stalled(mesh, found)
        before = left
        await asyncio.sleep(0.05)


def _stalled(mesh: Mesh, found: ServicesStatus) -> CliError:
    if found.to_publish:
        waits = "; ".join(f"{service}: {as_text(told)}" for service, told in found.unpublished.items())
        who, why = "outboxes", "the event log takes nothing"
    else:
        behind = {group: lag for group, lag in found.lag.items() if lag}
        waits = "; ".join(f"{group}: {lag} events wait to be delivered" for group, lag in behind.items())
        who, why = "consumers", "a consumer fails over and over"
    return CliError(
        f"{waits}; none was for {DRAIN_STALL_S:.0f} s",
        where=f"{who} of {mesh.data}",
        cause=why,
        next_step=f"tail {mesh.logs}/*.log",
        code=ExitCode.UNHEALTHY,
        detail=complaints(mesh.logs),
    )


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class Progress:
    """A bar per step on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True)
        columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = RichProgress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def track(self, batches: Iterable[T], *, total: int, what: str) -> Iterator[T]:
        """The same batches, counted."""
        done = 0
        for batch in batches:
            yield batch
            done += len(batch)  # type: ignore[arg-type]
            self.show(what, done=done, total=total)

    def show(self, what: str, *, done: int, total: int) -> None:
        """Moves the bar of *what*."""
        from rich.progress import TaskID

        if what not in self._tasks:
            self._tasks[what] = int(self._bar.add_task(what, total=total))
        self._bar.update(TaskID(self._tasks[what]), completed=done, total=total)


def progress() -> Progress:
    """A progress display on stderr."""
    return Progress()
