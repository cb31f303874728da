"""The table of degradation (feed_svc/degradation.py), walked on real processes: every row, every way to fail.

Each answer comes in time, says its reason in body, header and metric, and shows only what was checked; without the
fault the same request says nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import pytest_asyncio
from feedmesh.feed.v1 import feed_pb2
from feedmesh.rank.v1 import rank_service_pb2 as rank_pb
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from feed_svc.degradation import ANSWER_WITHIN_MS, TABLE, Dependency, Row, Way
from foundation.cards import author_key, card_key
from foundation.recommendations import recommendations_key
from foundation.rpc.errors import DETAILS
from foundation.timeline.redis import AUTHOR_POSTS, FEED, timeline_key
from foundation.viewers import viewer_key
from tests.kit.eventually import eventually
from tests.kit.faults import Fault, Link, RpcLink, Said
from tests.kit.mesh import running_mesh
from tests.kit.strained import Answer, Strained, strained

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

JUNK = b"\xff\xff\xff junk"
SAID = {Way.SLOW: Said.NOTHING, Way.FAILING: Said.LOADING, Way.GARBAGE: Said.NONSENSE, Way.GONE: Said.NOT_SERVED}
BREAKS = {Way.SLOW: Fault.SILENT, Way.FAILING: Fault.RESET, Way.GARBAGE: Fault.GARBAGE, Way.GONE: Fault.DOWN}
ALONG = {"SESSION_UNAVAILABLE", "CACHE_UNAVAILABLE", "FEED_PARTIAL", "FEATURES_UNAVAILABLE"}
"""What comes with a fault of the cache: sessions lie on the node of the list, and a node that is silent about some keys
is silent about all, gaps and features among them."""
CACHED = (
    Dependency.FEED_CACHE,
    Dependency.AUTHOR_TIMELINES,
    Dependency.CARDS,
    Dependency.SESSIONS,
    Dependency.WHOLE_CACHE,
    Dependency.FEATURES,
    Dependency.RECOMMENDATIONS,
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> AsyncIterator[Strained]:
    directory = tmp_path_factory.mktemp("degraded")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE privacy_of_the_walk")
    socket = Path(postgres_server.partition("host=")[2]) / ".s.PGSQL.5432"
    with running_mesh(directory / "mesh") as mesh:
        async with Link(socket) as log:
            url = f"postgresql+psycopg://postgres@{log.address}/privacy_of_the_walk"
            async with strained(mesh, directory, log, url) as made:
                yield made


@pytest_asyncio.fixture(loop_scope="module")
async def healed(network: Strained) -> AsyncIterator[Strained]:
    await network.heal()
    await network.normal()
    yield network
    await network.heal()
    await network.normal()


@dataclass(frozen=True)
class Scene:
    """How a row is brought about, and the request that it speaks of."""

    breaks: Callable[[Strained, Way], Awaitable[Any]]
    forgets: Callable[[Strained], Sequence[str]] = lambda _: ()
    """Keys that are not in the cache."""
    hides: Callable[[Strained], Sequence[int]] = lambda _: ()
    """Posts that cannot be checked."""
    later: bool = False
    """A page of a session, instead of a first one."""
    recommends: bool = False
    """There are recommendations."""


def keys(door: str, *families: str) -> Callable[[Strained, Way], Awaitable[None]]:
    async def breaks(network: Strained, way: Way) -> None:
        await network.doors[door].says(SAID[way], *families)

    return breaks


async def cards(network: Strained, way: Way) -> None:
    await network.doors["others"].says(SAID[way], "card:")
    await network.doors["authors"].says(SAID[way], "author:")


async def whole_cache(network: Strained, way: Way) -> None:
    for door in network.doors.values():
        await door.breaks(BREAKS[way])


def service(link: Callable[[Strained], RpcLink], *methods: str) -> Callable[[Strained, Way], Awaitable[None]]:
    async def breaks(network: Strained, way: Way) -> None:
        if way is Way.SLOW:
            link(network).hangs()
        elif way is Way.FAILING:
            link(network).fails()
        elif way is Way.GONE:
            await link(network).wire.breaks(Fault.DOWN)
        else:
            for method in methods:
                link(network).answers(method, lambda _: JUNK)

    return breaks


async def privacy_log(network: Strained, way: Way) -> None:
    await network.log.breaks(BREAKS[way])


def everything_listed(network: Strained) -> list[str]:
    lists = [timeline_key(AUTHOR_POSTS, author) for author in (network.ana, *network.friends)]
    return [timeline_key(FEED, network.ana), *lists]


async def recommender(network: Strained, way: Way) -> None:
    if way is Way.SLOW:
        network.rank.hangs("RequestRecommendations")
    elif way is Way.FAILING:
        network.rank.fails("RequestRecommendations")
    else:
        network.rank.answers("RequestRecommendations", lambda _: JUNK)


graph = service(lambda network: network.graph, "GetViewerGraph", "BatchGetAuthors")
posts = service(lambda network: network.posts, "BatchGetPosts", "ListRecentPosts")
rank = service(lambda network: network.rank, "RankCandidates")

SCENES = {
    (Dependency.FEED_CACHE, "any page"): Scene(keys("viewer", "feed:")),
    (Dependency.AUTHOR_TIMELINES, "who pulls, or reads below the list"): Scene(keys("authors", "author_posts:")),
    (Dependency.CARDS, "any page"): Scene(cards),
    (Dependency.SESSIONS, "a first RANKED page"): Scene(keys("viewer", "session:")),
    (Dependency.SESSIONS, "a later RANKED page"): Scene(keys("viewer", "session:"), later=True),
    (Dependency.WHOLE_CACHE, "any first page"): Scene(whole_cache),
    (Dependency.FEATURES, "a first RANKED page with posts that rank_svc does not know yet"): Scene(
        keys("others", "pf:")
    ),
    (Dependency.RECOMMENDATIONS, "a first RANKED page"): Scene(keys("viewer", "recs:"), recommends=True),
    (Dependency.RECOMMENDER, "a first RANKED page of a viewer who has no recommendations, or old ones"): Scene(
        recommender, forgets=lambda network: [recommendations_key(network.ana)]
    ),
    (Dependency.RANK, "a first RANKED page"): Scene(rank),
    (Dependency.GRAPH, "a viewer whose record is in the cache"): Scene(graph),
    (Dependency.GRAPH, "a viewer whose record is not in the cache"): Scene(
        graph, forgets=lambda network: [viewer_key(network.ana)]
    ),
    (Dependency.GRAPH, "posts of authors whose records are not in the cache"): Scene(
        graph,
        forgets=lambda network: [author_key(network.friends[1])],
        hides=lambda network: network.of(network.friends[1]),
    ),
    (Dependency.POSTS, "posts whose cards are not in the cache"): Scene(
        posts,
        forgets=lambda network: [card_key(post) for post in network.whole[:3]],
        hides=lambda network: network.whole[:3],
    ),
    (Dependency.POSTS, "pulled authors whose timelines are cold"): Scene(
        posts,
        forgets=lambda network: [timeline_key(AUTHOR_POSTS, network.friends[0])],
    ),
    (Dependency.POSTS, "a cold feed, and nobody's timeline is in the cache"): Scene(posts, forgets=everything_listed),
    (Dependency.PRIVACY_LOG, "any page"): Scene(privacy_log),
}
WALK = [
    pytest.param(row, way, id=f"{row.dependency.value}, {row.when}: {way.value}") for row in TABLE for way in row.ways
]


def reason_of(failure: aio.AioRpcError) -> str:
    info = ErrorInfo()
    for key, value in failure.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes):
            Status.FromString(value).details[0].Unpack(info)
    return info.reason


async def prepared(network: Strained, scene: Scene) -> None:
    for key in scene.forgets(network):
        await network.redis.execute([("DEL", key)])
    if scene.recommends:
        await network.recommend()


def check(network: Strained, answer: Answer, recommended: Sequence[int] = ()) -> None:
    """Body and header agree, and nothing is shown twice or from elsewhere."""
    degraded = bool(answer.reasons)
    assert answer.page.quality == (feed_pb2.DEGRADED if degraded else feed_pb2.NORMAL)
    assert answer.header == ("degraded" if degraded else "normal")
    assert len({*answer.ids}) == len(answer.ids)
    assert {*answer.ids} <= {*network.whole, *recommended}


@pytest.mark.parametrize(("row", "way"), WALK)
async def test_a_row_of_the_table(healed: Strained, row: Row, way: Way) -> None:
    network, scene = healed, SCENES[row.dependency, row.when]
    first = await network.ask(limit=5)
    cursor = first.page.next_cursor if scene.later else ""
    before = await network.counted()
    await scene.breaks(network, way)
    for _ in range(2):  # the second one knows what the first one met
        await prepared(network, scene)
        began = time.monotonic()
        try:
            answer = await network.ask(cursor=cursor, limit=30)
        except aio.AioRpcError as failure:
            assert row.error, failure.details()
            assert reason_of(failure) == row.error
            assert "127.0.0.1" not in str(failure.details())
        else:
            assert not row.error, answer.reasons
            check(network, answer)
            expected = {row.reason.name} if row.reason else set()
            allowed = expected | (ALONG if row.dependency in CACHED else set())
            for _ in range(2):
                if answer.reasons <= allowed:
                    break
                # A box that stands still for a moment fails other parts too; a wrong answer comes again.
                began = time.monotonic()
                answer = await network.ask(cursor=cursor, limit=30)
                check(network, answer)
            assert expected <= answer.reasons <= allowed
            assert not {*answer.ids} & {*scene.hides(network)}, "never shown on trust"
            if row.dependency in (*CACHED, Dependency.RANK) or row.reason is None:
                assert len(answer.ids) == len(network.whole), "nothing was skipped"
        assert time.monotonic() - began < ANSWER_WITHIN_MS / 1000
    if row.reason is not None:
        assert (await network.counted()).get(row.reason.name, 0) == before.get(row.reason.name, 0) + 2
    # The other direction: the same request without the fault says nothing, from a few seconds after it on.
    await network.heal()
    if not scene.later:
        expected_ids = sorted([*network.whole, *(network.strangers if scene.recommends else ())])

        async def as_before() -> bool:
            answer = await network.normal(lambda: prepared(network, scene))
            check(network, answer, network.strangers)
            # Recommendations that were being made while the fault ended come to nothing, and replace these.
            return sorted(answer.ids) == expected_ids

        if scene.recommends:
            await eventually(as_before, timeout_s=5)
        else:
            assert await as_before()


NONSENSE = {
    "no number": lambda answer: answer.MergeFrom(rank_pb.RankCandidatesResponse(scores=_scores(answer, float("nan")))),
    "infinite": lambda answer: answer.MergeFrom(rank_pb.RankCandidatesResponse(scores=_scores(answer, float("inf")))),
    "fewer": lambda answer: answer.MergeFrom(rank_pb.RankCandidatesResponse(places=answer.places[2:])),
    "half a place": lambda answer: answer.MergeFrom(rank_pb.RankCandidatesResponse(places=answer.places[:-1])),
    "one twice": lambda answer: answer.MergeFrom(
        rank_pb.RankCandidatesResponse(places=answer.places[:2] + answer.places[:-2])
    ),
    "a stranger": lambda answer: answer.MergeFrom(
        rank_pb.RankCandidatesResponse(places=b"\xff\xff" + answer.places[2:])
    ),
    "authors of others": lambda answer: answer.MergeFrom(
        rank_pb.RankCandidatesResponse(author_ids=answer.author_ids[8:])
    ),
}


def _scores(answer: rank_pb.RankCandidatesResponse, value: float) -> bytes:
    return np.full(len(answer.scores) // 4, value, dtype="<f4").tobytes()


@pytest.mark.parametrize("what", NONSENSE)
async def test_ranking_that_answers_nonsense_is_newest_first(healed: Strained, what: str) -> None:
    def spoiled(raw: bytes) -> bytes:
        answer = rank_pb.RankCandidatesResponse.FromString(raw)
        NONSENSE[what](answer)
        return answer.SerializeToString()

    healed.rank.answers("RankCandidates", spoiled)
    answer = await healed.ask(limit=30)
    check(healed, answer)
    assert answer.reasons == {"RANK_FALLBACK"}
    assert sorted(answer.ids, reverse=True) == healed.whole


@pytest.mark.parametrize("method", ["graph", "posts"])
async def test_where_nothing_can_be_checked_nothing_is_shown(healed: Strained, method: str) -> None:
    link: RpcLink = getattr(healed, method)
    link.hangs()
    gone = [author_key(friend) for friend in healed.friends] if method == "graph" else map(card_key, healed.whole)
    for key in gone:
        await healed.redis.execute([("DEL", key)])
    began = time.monotonic()
    with pytest.raises(aio.AioRpcError) as failure:
        await healed.ask()
    assert reason_of(failure.value) == "FEED_UNAVAILABLE"
    assert time.monotonic() - began < ANSWER_WITHIN_MS / 1000


@pytest.mark.parametrize("mode", [feed_pb2.RANKED, feed_pb2.LATEST])
async def test_a_valkey_that_hangs_for_everybody(healed: Strained, mode: feed_pb2.FeedMode) -> None:
    """The owners cannot tell the cache what they answer either, and find out in the first request."""
    pid = healed.client.mesh.processes["valkey"].pid
    os.kill(pid, signal.SIGSTOP)
    try:

        async def whole() -> bool:
            began = time.monotonic()
            try:
                answer = await healed.ask(mode=mode, limit=30)
            except aio.AioRpcError as failure:
                assert reason_of(failure) == "FEED_UNAVAILABLE"
                return False
            finally:
                took_s = time.monotonic() - began
                # The first ones wait for what is silent to the last; a busy machine adds to it.
                assert took_s < 2 * ANSWER_WITHIN_MS / 1000
            check(healed, answer)
            assert "CACHE_UNAVAILABLE" in answer.reasons
            return answer.ids == healed.whole and took_s < ANSWER_WITHIN_MS / 1000

        await eventually(whole, timeout_s=5)
    finally:
        os.kill(pid, signal.SIGCONT)
    await healed.normal()
