"""Arrangement drops nothing, keeps the cap where it can, and keeps the best first."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from feed_svc.model import AUTHOR_CAP, WINDOW
from feed_svc.stages.arrangement import arrange

authors = st.lists(st.integers(0, 12), max_size=200)


@given(authors)
def test_arrangement_is_a_permutation(author_ids: list[int]) -> None:
    ids = list(range(1, len(author_ids) + 1))
    assert sorted(arrange(ids, author_ids)) == ids


@given(authors)
def test_a_window_over_the_cap_only_holds_what_nothing_else_could_replace(author_ids: list[int]) -> None:
    ids = list(range(1, len(author_ids) + 1))
    author_of = dict(zip(ids, author_ids, strict=True))
    arranged = arrange(ids, author_ids)
    for start in range(0, len(arranged), WINDOW):
        window = arranged[start : start + WINDOW]
        counts = Counter(author_of[post_id] for post_id in window if author_of[post_id])
        if counts and max(counts.values()) > AUTHOR_CAP:
            # From here on only surplus was left: no author below the cap comes in any later window.
            later = arranged[start + WINDOW :]
            assert all(counts[author_of[post_id]] >= AUTHOR_CAP for post_id in later)


def test_surplus_of_one_author_moves_down_to_the_next_window() -> None:
    ids = list(range(40))
    author_ids = [1] * 5 + list(range(100, 135))
    arranged = arrange(ids, author_ids)
    assert arranged[:3] == [0, 1, 2]
    assert {3, 4}.isdisjoint(arranged[:WINDOW])
    assert arranged[WINDOW : WINDOW + 2] == [3, 4]


def test_unknown_authors_are_never_capped() -> None:
    assert arrange([3, 2, 1], [0, 0, 0]) == [3, 2, 1]
