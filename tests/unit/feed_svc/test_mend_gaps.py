"""What was left to readers is shown and written back, once a while, and never taken for read when it was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from feed_svc.adapters.known_gaps import KEPT_S, MENDED_FOR_S, KnownGaps
from feed_svc.flows.mend_gaps import MendGaps
from feed_svc.flows.open_home import OpenedHome
from feed_svc.model import Degraded
from foundation.errors import Unavailable
from foundation.model.clock import SystemClock
from foundation.redis.client import RedisCluster
from foundation.telemetry.journal import Journal
from foundation.timeline.port import CAPACITY, Gap
from foundation.timeline.redis import FEED, RedisTimelines
from tests.kit.feeds import ANA, OLDEST, StoppedClock, World


@dataclass
class Recorded:
    """The worker's side."""

    gaps: list[Gap] = field(default_factory=list)
    silent: bool = False
    reads: int = 0

    async def record(self, post_ids: Sequence[int]) -> None:
        raise AssertionError("readers record nothing")

    async def read(self) -> Sequence[Gap]:
        self.reads += 1
        if self.silent:
            raise Unavailable("CACHE_UNAVAILABLE")
        return self.gaps


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
async def feeds(redis: RedisCluster) -> RedisTimelines:
    timelines = RedisTimelines(redis, FEED)
    assert await timelines.begin(ANA, "t", 200)
    assert await timelines.commit(ANA, "t", [900, 500], 200)
    return timelines


def mending(world: World, recorded: Recorded, feeds: RedisTimelines, clock: StoppedClock) -> MendGaps:
    return MendGaps(gaps=KnownGaps(recorded, clock), author_posts=world, timelines=feeds, timeout_s=5)


def home_of(world: World) -> OpenedHome:
    """As the list in the cache says: everything else was left to readers."""
    return OpenedHome(world.home(200, ()).viewer, [900, 500], 200, OLDEST, True, frozenset())


async def test_a_gap_is_filled_from_the_authors_and_written_into_the_list(
    feeds: RedisTimelines, recorded: Recorded, clock: StoppedClock
) -> None:
    world = World({ANA: [], 2: [900, 700, 500, 190], 3: [650, 400, 150]})
    mend = mending(world, recorded, feeds, clock)
    lacking = home_of(world)
    recorded.gaps = [Gap(600, 800), Gap(120, 450)]
    journal = Journal(SystemClock())
    mended = await mend(ANA, lacking, journal)
    assert mended.ids == [900, 700, 650, 500, 400]
    assert (mended.floor, mended.reasons) == (200, frozenset())
    assert [(stage.name, stage.count) for stage in journal.stages] == [("gaps", 3)]
    assert (await feeds.read([ANA]))[ANA].ids == [900, 700, 650, 500, 400]
    world.silent = {2, 3}
    assert await mend(ANA, lacking, journal) is lacking, "not twice within a while"
    clock.seconds += MENDED_FOR_S
    assert (await mend(ANA, lacking, journal)).reasons == {Degraded.FEED_PARTIAL}


async def test_a_gap_that_grew_is_looked_at_again_at_once(
    feeds: RedisTimelines, recorded: Recorded, clock: StoppedClock
) -> None:
    world = World({ANA: [], 2: [900, 700, 500]})
    mend = mending(world, recorded, feeds, clock)
    home = home_of(world)
    recorded.gaps = [Gap(600, 800, 1)]
    assert (await mend(ANA, home, Journal(SystemClock()))).ids == [900, 700, 500]
    world.posts[2] = [900, 750, 700, 500]
    recorded.gaps = [Gap(600, 800, 2)]
    assert await mend(ANA, home, Journal(SystemClock())) is home, "gaps are read once a second"
    clock.seconds += KEPT_S
    assert (await mend(ANA, home, Journal(SystemClock()))).ids == [900, 750, 700, 500]
    clock.seconds += KEPT_S
    assert not await mend.wanted(ANA)


async def test_who_could_not_be_read_is_asked_again(
    feeds: RedisTimelines, recorded: Recorded, clock: StoppedClock
) -> None:
    world = World({ANA: [], 2: [700], 3: [650]}, silent={3})
    mend = mending(world, recorded, feeds, clock)
    recorded.gaps = [Gap(600, 800)]
    home = home_of(world)
    partial = await mend(ANA, home, Journal(SystemClock()))
    assert (partial.ids, partial.reasons) == ([900, 700, 500], {Degraded.FEED_PARTIAL})
    world.silent = ()
    assert (await mend(ANA, home, Journal(SystemClock()))).ids == [900, 700, 650, 500]


async def test_a_list_that_was_read_in_part_is_mended_again_when_it_is_read_whole(
    feeds: RedisTimelines, recorded: Recorded, clock: StoppedClock
) -> None:
    world = World({ANA: [], 2: [900, 700, 500], 3: [650, 400]})
    mend = mending(world, recorded, feeds, clock)
    recorded.gaps = [Gap(300, 800)]
    assert await mend.wanted(ANA), "so it is read whole"
    part = replace(home_of(world), ids=[900], floor=500, part=True)
    assert (await mend(ANA, part, Journal(SystemClock()))).ids == [900, 700, 650]
    assert await mend.wanted(ANA)
    assert (await mend(ANA, home_of(world), Journal(SystemClock()))).ids == [900, 700, 650, 500, 400]
    assert not await mend.wanted(ANA)
    clock.seconds += KEPT_S
    recorded.silent = True
    assert await mend.wanted(ANA), "nobody knows"


async def test_a_list_with_a_gap_that_it_cannot_hold_is_forgotten(
    feeds: RedisTimelines, recorded: Recorded, clock: StoppedClock
) -> None:
    everything = list(range(2_998, 998, -2))
    world = World({ANA: [], 2: everything})
    mend = mending(world, recorded, feeds, clock)
    recorded.gaps = [Gap(600, 5_000)]
    mended = await mend(ANA, home_of(world), Journal(SystemClock()))
    assert len(mended.ids) >= CAPACITY
    assert mended.ids == [post_id for post_id in everything if post_id > mended.floor]
    assert await feeds.read([ANA]) == {}, "a hole above its floor would be known to nobody"


async def test_gaps_are_read_once_a_second_and_missed_aloud(
    feeds: RedisTimelines, recorded: Recorded, clock: StoppedClock
) -> None:
    world = World({ANA: [], 2: [900, 500]})
    mend = mending(world, recorded, feeds, clock)
    home = world.home(200, ())
    for _ in range(20):
        assert await mend(ANA, home, Journal(SystemClock())) is home
    assert recorded.reads == 1
    clock.seconds += KEPT_S
    recorded.silent = True
    assert (await mend(ANA, home, Journal(SystemClock()))).reasons == {Degraded.FEED_PARTIAL}
    recorded.gaps, recorded.silent = [Gap(1, 200)], False
    assert await mend(ANA, home, Journal(SystemClock())) is home, "a gap below the floor concerns nobody"
