"""A feed walked page by page is the model: list, pulled authors and store in one order, at any floors that move."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from feed_svc.flows.walk_feed import WalkFeed
from feed_svc.model import Degraded
from tests.kit.feeds import ANA, OLDEST, World, ids_of

TOP = 1_500

worlds = st.dictionaries(st.integers(1, 8), st.sets(st.integers(OLDEST - 40, TOP), max_size=60), max_size=8).map(
    lambda posts: {ANA: [], **{author: [post * 10 + author for post in mine] for author, mine in posts.items()}}
)
floors = st.lists(st.integers(0, TOP * 10), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(worlds, floors, st.sets(st.integers(2, 8)), st.integers(1, 40))
async def test_pages_put_together_are_the_model_whatever_the_floors(
    posts: dict[int, list[int]], moving: list[int], pulled: set[int], limit: int
) -> None:
    everything = [post for mine in posts.values() for post in mine]
    some = [post for post in everything if hash((post, limit)) % 7 == 0]
    world = World(posts, hidden=some)
    walk = WalkFeed(author_posts=world, shelf=world, timeout_s=5)
    pulled &= posts.keys() - {ANA}
    walked: list[int] = []
    before_id, pages, empty = 0, 0, 0
    while True:
        home = world.home(moving[pages % len(moving)], pulled, some)
        page = await walk(ANA, home, before_id=before_id, limit=limit)
        assert not page.slate.reasons
        walked += ids_of(page.slate.posts)
        empty += not page.slate.posts
        pages, before_id = pages + 1, page.next_id
        if not before_id:
            break
    assert walked == sorted((post for post in everything if post > OLDEST and post not in some), reverse=True)
    assert empty <= 1, "at most one empty page, the last"


async def test_below_the_floor_a_silent_author_ends_the_page_and_the_cursor_tries_again() -> None:
    world = World({ANA: [], 2: [900, 800, 300], 3: [850, 250]}, silent={3})
    walk = WalkFeed(author_posts=world, shelf=world, timeout_s=5)
    page = await walk(ANA, world.home(500, ()), before_id=0, limit=20)
    assert ids_of(page.slate.posts) == [900, 850, 800]
    assert (page.next_id, page.slate.reasons) == (501, {Degraded.FEED_PARTIAL})
    again = await walk(ANA, world.home(500, ()), before_id=page.next_id, limit=20)
    assert (again.slate.posts, again.next_id, again.slate.reasons) == ([], 501, {Degraded.FEED_PARTIAL})
    world.silent = ()
    rest = await walk(ANA, world.home(500, ()), before_id=again.next_id, limit=20)
    assert (ids_of(rest.slate.posts), rest.next_id, rest.slate.reasons) == ([300, 250], 0, set())


async def test_beside_the_list_a_silent_author_is_left_out_with_a_reason() -> None:
    world = World({ANA: [], 2: [900, 800], 3: [850], 4: [870]}, silent={3})
    walk = WalkFeed(author_posts=world, shelf=world, timeout_s=5)
    page = await walk(ANA, world.home(500, {3, 4}), before_id=0, limit=20)
    assert ids_of(page.slate.posts) == [900, 870, 800]
    assert page.slate.reasons == {Degraded.FEED_PARTIAL}
    assert page.next_id == 501, "it does not end silently"


async def test_a_page_without_room_asks_nobody() -> None:
    world = World({ANA: [], 2: [900]}, silent={2})
    walk = WalkFeed(author_posts=world, shelf=world, timeout_s=5)
    page = await walk(ANA, world.home(500, ()), before_id=400, limit=0)
    assert (page.next_id, page.slate.reasons) == (400, set())
