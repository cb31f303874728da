"""Arrangement drops nothing, keeps the cap where it can, and keeps the best first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from feed_svc.model import AUTHOR_CAP, WINDOW, Kind, Ranked
from feed_svc.stages.arrangement import LEAST, MOST, _window, arrange, compose


def places_of(kinds: Sequence[Kind]) -> dict[Kind, list[int]]:
    """Where each kind stands, but for what is pushed."""
    return {kind: [place for place, one in enumerate(kinds) if one is kind] for kind in LEAST}


authors = st.lists(st.integers(0, 12), max_size=200)


@given(authors)
def test_arrangement_is_a_permutation(author_ids: list[int]) -> None:
    assert sorted(arrange(author_ids, {})) == list(range(len(author_ids)))


@given(authors)
def test_a_window_over_the_cap_only_holds_what_nothing_else_could_replace(author_ids: list[int]) -> None:
    arranged = arrange(author_ids, {})
    for start in range(0, len(arranged), WINDOW):
        window = arranged[start : start + WINDOW]
        counts = Counter(author_ids[place] for place in window if author_ids[place])
        if counts and max(counts.values()) > AUTHOR_CAP:
            # From here on only surplus was left: no author below the cap comes in any later window.
            later = arranged[start + WINDOW :]
            assert all(counts[author_ids[place]] >= AUTHOR_CAP for place in later)


def test_surplus_of_one_author_moves_down_to_the_next_window() -> None:
    arranged = arrange([1] * 5 + list(range(100, 135)), {})
    assert arranged[:3] == [0, 1, 2]
    assert {3, 4}.isdisjoint(arranged[:WINDOW])
    assert arranged[WINDOW : WINDOW + 2] == [3, 4]


def test_unknown_authors_are_never_capped() -> None:
    assert list(arrange([0] * 30, {})) == list(range(30))


mixed = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([Kind.PUSHED, Kind.PULLED, Kind.RECOMMENDED])), max_size=200
)


@given(mixed)
@example([(author, Kind.PUSHED) for author in [0] * 15 + [1] * 4 + [0, 1]])
def test_mixing_kinds_drops_nothing_and_keeps_the_order_within_a_window(entries: list[tuple[int, Kind]]) -> None:
    arranged = list(arrange([author for author, _ in entries], places_of([kind for _, kind in entries])))
    assert sorted(arranged) == list(range(len(entries)))
    for start in range(0, len(arranged) - WINDOW, WINDOW):
        window = arranged[start : start + WINDOW]
        counts = Counter(entries[place][0] for place in window if entries[place][0])
        # A window over the cap is where only surplus was left, which follows in its own order.
        assert window == sorted(window) or max(counts.values(), default=0) > AUTHOR_CAP


@given(st.permutations([*[Kind.PUSHED] * 70, *[Kind.PULLED] * 40, *[Kind.RECOMMENDED] * 40]))
def test_each_window_holds_its_share_of_each_kind_while_others_last(kinds: list[Kind]) -> None:
    """Seed section 5: of 20 slots 14-16 pushed, 2-3 pulled, 2-3 recommended."""
    arranged = arrange(list(range(1, 151)), places_of(kinds))
    for start in range(0, 4 * WINDOW, WINDOW):
        window = Counter(kinds[place] for place in arranged[start : start + WINDOW])
        assert 14 <= window[Kind.PUSHED] <= 16
        for kind in (Kind.PULLED, Kind.RECOMMENDED):
            assert LEAST[kind] <= window[kind] <= MOST[kind]


@given(mixed)
def test_the_short_way_through_a_mix_comes_to_the_same_as_choosing_post_by_post(
    entries: list[tuple[int, Kind]],
) -> None:
    kinds = [kind for _, kind in entries]
    nobody = [0] * len(kinds)
    arranged = list(arrange(nobody, places_of(kinds)))
    waiting = list(zip(range(len(kinds)), nobody, kinds, strict=True))
    chosen: list[int] = []
    while waiting:
        window = [waiting[place][0] for place in _window(waiting, Counter(kind for _, _, kind in waiting))]
        chosen += window
        waiting = [entry for entry in waiting if entry[0] not in window]
    assert arranged == chosen


def test_a_window_that_is_chosen_post_by_post_holds_its_share_of_each_kind() -> None:
    # One author over the cap: the short way does not do.
    kinds = [Kind.PULLED] * 10 + [Kind.PUSHED] * 40
    author_ids = [*range(10, 20), *[1] * 5, *range(20, 55)]
    window = arrange(author_ids, places_of(kinds))[:WINDOW]
    assert Counter(kinds[place] for place in window) == {Kind.PULLED: 3, Kind.PUSHED: 17}
    assert Counter(author_ids[place] for place in window)[1] == 3


def test_short_kinds_are_filled_by_others() -> None:
    few = [Kind.PULLED] * 30 + [Kind.PUSHED] * 5
    window = arrange(list(range(1, 36)), places_of(few))[:WINDOW]
    assert Counter(few[place] for place in window) == {Kind.PULLED: 15, Kind.PUSHED: 5}


def test_who_follows_nobody_pulled_gets_what_ranking_says() -> None:
    ranked = Ranked([5, 9, 7], [1, 2, 3])
    assert compose(ranked, pulled=frozenset()) == ranked
    assert list(compose(ranked, pulled={2}).ids) == [5, 9, 7]
