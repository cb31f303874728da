"""What is recommended passes every page by the same rules, and only of people whom the viewer does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed_svc.flows.gather_candidates import RECOMMENDED_POSTS, GatherCandidates
from feed_svc.flows.open_home import OpenedHome
from feed_svc.model import AUTHOR_CAP, MAX_CANDIDATES, WINDOW, Degraded, Kind, Ranked, Recommended, Records
from feed_svc.stages.arrangement import MOST, compose
from feed_svc.stages.candidates import without_known
from feed_svc.stages.slate import fill_slate
from foundation.cards import AuthorCard, Card
from foundation.model.clock import SystemClock
from foundation.model.tiers import Tier
from foundation.telemetry.journal import Journal
from foundation.viewers import ViewerRecord
from foundation.visibility import AuthorFacts, PostState, UserState

ANA, BO, CY, DEE = 1, 2, 3, 4
VIEWER = ViewerRecord(1, UserState.ACTIVE, frozenset({BO}), frozenset(), frozenset())
ids = st.lists(st.integers(10, 2_000), unique=True, max_size=200)


class Shelf:
    """Posts whose author is the last digit of the id; *private* authors, *deleted* posts, owners who are *silent*."""

    def __init__(self, *, private: Sequence[int] = (), deleted: Sequence[int] = (), silent: Sequence[int] = ()) -> None:
        self._private, self._deleted, self._silent = private, deleted, silent

    async def fetch(self, post_ids: Sequence[int], author_ids: Sequence[int] = ()) -> Records:
        there = [post for post in post_ids if post not in self._silent]
        cards = {
            post: Card(post % 10, PostState.DELETED if post in self._deleted else PostState.ACTIVE, 1, b"%d:" % post)
            for post in there
        }
        authors = {
            author: AuthorCard(
                AuthorFacts(author, UserState.ACTIVE, is_private=author in self._private), 1, Tier.PUSH, 0, b""
            )
            for author in {post % 10 for post in there}
        }
        return Records(cards, authors, len(there) == len(post_ids))

    async def authors_of(self, post_ids: Sequence[int]) -> Sequence[int]:
        return [post % 10 for post in post_ids]


async def shown(
    viewer: ViewerRecord, shelf: Shelf, order: Sequence[int], recommended: Sequence[int]
) -> tuple[list[int], set[Degraded]]:
    slate = await fill_slate(shelf, ANA, viewer, order, 20, recommended=recommended)
    return [int(post.split(b":")[0]) for post in slate.posts], slate.reasons


async def test_only_what_was_recommended_may_be_of_somebody_who_is_not_followed() -> None:
    assert await shown(VIEWER, Shelf(), [12, 13, 23, 24], [13, 24]) == ([12, 13, 24], set())


@pytest.mark.parametrize(
    ("viewer", "shelf"),
    [
        (replace(VIEWER, blocks=frozenset({CY})), Shelf()),
        (replace(VIEWER, mutes=frozenset({CY})), Shelf()),
        (VIEWER, Shelf(private=[CY])),
        (VIEWER, Shelf(deleted=[13])),
    ],
    ids=["blocked", "muted", "private", "deleted"],
)
async def test_a_recommended_post_is_hidden_as_any_other(viewer: ViewerRecord, shelf: Shelf) -> None:
    assert await shown(viewer, shelf, [12, 13, 24], [13, 24]) == ([12, 24], set())


async def test_ones_own_post_is_never_shown_as_a_recommendation() -> None:
    assert await shown(VIEWER, Shelf(), [11, 12, 21], [21]) == ([11, 12], set())


async def test_one_whose_author_is_followed_since_the_head_was_made_stays() -> None:
    since = replace(VIEWER, follows=frozenset({BO, CY}))
    assert await shown(since, Shelf(), [12, 13], [13]) == ([12, 13], set())


async def test_one_that_cannot_be_checked_is_left_out_with_the_reason() -> None:
    assert await shown(VIEWER, Shelf(silent=[13]), [12, 13, 22], [13]) == ([12, 22], {Degraded.POSTS_UNAVAILABLE})


async def test_a_recommendation_that_is_hidden_says_nothing_against_the_list() -> None:
    slate = await fill_slate(
        Shelf(), ANA, replace(VIEWER, mutes=frozenset({CY})), [12, 13, 24], 20, recommended=[13, 24]
    )
    assert slate.foreign == 0


@given(ids, st.sets(st.integers(10, 2_000), max_size=40), st.frozensets(st.integers(2, 9)))
def test_a_head_recommends_nobody_known_and_loses_nothing_else(
    order: list[int], recommended: set[int], follows: frozenset[int]
) -> None:
    viewer = replace(VIEWER, follows=follows)
    ranked = Ranked(order, [post % 10 for post in order])
    chosen = without_known(ranked, recommended, viewer_id=ANA, viewer=viewer)
    composed = compose(chosen, pulled=(), recommended=recommended)
    head = composed.ids
    assert list(composed.author_ids) == [post % 10 for post in head]
    assert {*head} == {post for post in order if not (post in recommended and post % 10 in {*follows, ANA})}
    assert len(head) == len({*head})


def test_recommended_posts_are_few_of_one_author_and_few_of_a_window() -> None:
    recommended = [place * 10 + CY for place in range(10, 20)] + [place * 10 + DEE for place in range(10, 20)]
    pushed = list(range(1_000, 1_100))
    ranked = Ranked([*recommended, *pushed], [*[CY] * 10, *[DEE] * 10, *pushed])
    head = compose(ranked, pulled=(), recommended=recommended).ids
    for start in range(0, 5 * WINDOW, WINDOW):
        window = [post for post in head[start : start + WINDOW] if post in recommended]
        assert len(window) == MOST[Kind.RECOMMENDED]
        assert max(Counter(post % 10 for post in window).values()) <= AUTHOR_CAP
    assert sorted(head) == sorted([*recommended, *pushed])


def opened(listed: Sequence[int], found: Sequence[int] | None) -> OpenedHome:
    recommended = Recommended(found, 1) if found is not None else None
    return OpenedHome(VIEWER, listed, 10, 5, True, frozenset(), recommended=recommended)


async def test_the_best_recommendations_are_candidates_beside_the_list() -> None:
    journal = Journal(SystemClock())
    gather = GatherCandidates(sources=())
    found = [70, 33, 4, 95, *range(1_000, 1_000 + 2 * RECOMMENDED_POSTS)]
    candidates = await gather(opened([90, 70], found), journal)
    assert candidates.ids == [90, 70]
    assert candidates.recommended == {33, 95, *range(1_000, 1_000 + RECOMMENDED_POSTS - 2)}, "young and not in the list"
    assert candidates.together() == sorted([90, 70, *candidates.recommended], reverse=True)
    assert [(stage.name, stage.count) for stage in journal.stages] == [("recommended", RECOMMENDED_POSTS)]


@pytest.mark.parametrize("found", [None, []])
async def test_who_has_none_gets_the_list_and_no_reason(found: Sequence[int] | None) -> None:
    candidates = await GatherCandidates(sources=())(opened([90, 70], found), Journal(SystemClock()))
    assert (candidates.together(), candidates.reasons, candidates.recommended) == ([90, 70], frozenset(), frozenset())


async def test_with_recommendations_there_are_no_more_candidates_than_ranking_takes() -> None:
    listed = range(10_000, 10_000 - 2 * MAX_CANDIDATES, -1)
    candidates = await GatherCandidates(sources=())(opened(listed, [6, 7, 8]), Journal(SystemClock()))
    assert len(candidates.together()) == MAX_CANDIDATES
    assert candidates.recommended == {6, 7, 8}
