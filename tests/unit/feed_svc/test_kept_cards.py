"""What a process keeps of cards is never shown to somebody who asked after it had changed (rule 6).

Requests and changes take their steps in any order; copies of the changes are lost and fall back in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feed_svc.adapters.kept_cards import KEPT_FOR_S, KeptCards
from foundation.card_changes import ENTRIES, ENTRY_BYTES
from foundation.cards import AuthorCard, Card
from foundation.model.tiers import Tier
from foundation.visibility import AuthorFacts, PostState, UserState
from tests.kit.feeds import StoppedClock

POSTS = (1, 2, 3)
AUTHOR = 9
COPIES = 3


def card(version: int) -> Card:
    return Card(AUTHOR, PostState.ACTIVE, version, b"")


def author() -> AuthorCard:
    return AuthorCard(AuthorFacts(AUTHOR, UserState.ACTIVE, False), 1, Tier.PUSH, 0, b"")


class World:
    """The store, the copies of the changes, and one process."""

    def __init__(self) -> None:
        self.kept = KeptCards(StoppedClock(), capacity=2)
        self.stamps = count(1)
        self.cards = dict.fromkeys(POSTS, 0)
        self.acknowledged = dict.fromkeys(POSTS, 0)
        self.copies: list[bytes | None] = [self.entry(0)] * COPIES
        self.shown_from_kept = 0

    def entry(self, post: int) -> bytes:
        return next(self.stamps).to_bytes(8, "big") + post.to_bytes(8, "little")

    def change(self, post: int) -> Iterator[None]:
        """The card, then every copy, then the answer."""
        version = self.cards[post] = self.cards[post] + 1
        yield
        entry = self.entry(post)
        for at in range(COPIES):
            self.copies[at] = (entry + (self.copies[at] or b""))[: ENTRIES * ENTRY_BYTES]
            yield
        self.acknowledged[post] = max(self.acknowledged[post], version)

    def read(self, post: int, copy: int) -> Iterator[None]:
        """One request, by the steps of feed_svc: home, then what is kept or what is read."""
        expected = self.acknowledged[post]
        yield
        told = self.copies[copy]
        yield
        self.kept.question(copy)
        self.kept.check(copy, told)
        checked = self.kept.checked
        yield
        shown = self.kept.cards.get(post) if checked else None
        if shown is not None:
            self.shown_from_kept += 1
        else:
            generation = self.kept.generation
            yield
            shown = card(self.cards[post])
            yield
            self.kept.keep({post: shown}, {AUTHOR: author()}, generation=generation)
        assert shown.version >= expected

    def lose(self, copy: int) -> None:
        """A node starts empty; somebody begins the copy again."""
        self.copies[copy] = self.entry(0) if self.copies[copy] is None else None

    def fall_back(self, copy: int) -> None:
        """A replica takes over that lacks the newest; the client tells that the primary changed."""
        self.copies[copy] = (self.copies[copy] or b"")[ENTRY_BYTES:] or None
        self.kept.forget()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(POSTS), st.just(0)),
        st.tuples(st.just("read"), st.sampled_from(POSTS), st.integers(0, COPIES - 1)),
        st.tuples(st.just("go on"), st.integers(0, 7), st.integers(1, 6)),
        st.tuples(st.sampled_from(["lose", "fall_back"]), st.integers(0, COPIES - 1), st.just(0)),
    ),
    max_size=80,
)


@given(STEPS)
@settings(max_examples=600, deadline=None)
def test_nobody_is_shown_what_had_changed_before_they_asked(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    under_way: list[Iterator[None]] = []
    for what, one, other in steps:
        if what == "change":
            under_way.append(world.change(one))
        elif what == "read":
            under_way.append(world.read(one, other))
        elif what == "go on" and under_way:
            for _ in range(other):
                place = one % len(under_way)
                if next(under_way[place], "end") == "end":
                    del under_way[place]
                    break
        elif what in ("lose", "fall_back"):
            getattr(world, what)(one)
    for rest in under_way:
        whole(rest)


def whole(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


@pytest.mark.parametrize("lost", [False, True])
def test_what_was_read_before_a_change_was_heard_of_is_not_kept(*, lost: bool) -> None:
    """A late fill: the card was read before it changed, and comes after another request has heard of the change."""
    world = World()
    whole(world.read(2, 0))
    late = world.read(1, 0)
    for _ in range(5):
        next(late)
    whole(world.change(1))
    if lost:
        world.copies[0] = world.entry(0)
    whole(world.read(2, 0))
    whole(late)
    whole(world.read(1, 0))
    assert world.kept.cards[1].version == 1


def test_a_change_that_a_failover_lost_is_not_slept_through() -> None:
    world = World()
    whole(world.read(1, 0))
    whole(world.change(1))
    world.fall_back(0)
    whole(world.read(1, 0))
    assert world.shown_from_kept == 0


def test_what_did_not_change_is_shown_from_the_process() -> None:
    world = World()
    for _ in range(3):
        for post in POSTS[:2]:
            whole(world.read(post, 0))
    assert world.shown_from_kept == 4
    whole(world.change(1))
    for post in POSTS[:2]:
        whole(world.read(post, 0))
    assert world.shown_from_kept == 5, "only what changed was forgotten"


def test_without_the_word_of_a_copy_nothing_is_shown() -> None:
    kept = KeptCards(StoppedClock(), capacity=10)
    kept.question(1)
    kept.check(0, b"s" * 8 + bytes(8))
    assert kept.checked
    for told in (None, TimeoutError(), b"", b"short"):
        kept.question(1)
        kept.check(0, told)
        assert not kept.checked


def test_nothing_is_kept_for_long_or_without_bound() -> None:
    clock = StoppedClock()
    kept = KeptCards(clock, capacity=2)

    def keep(post: int) -> None:
        kept.keep({post: card(1)}, {}, generation=kept.generation)

    keep(1)
    keep(2)
    assert kept.cards.keys() == {1, 2}
    keep(3)
    assert kept.cards.keys() == {3}
    clock.seconds += KEPT_FOR_S
    keep(4)
    assert kept.cards.keys() == {4}
    none = KeptCards(clock, capacity=0)
    none.keep({1: card(1)}, {}, generation=none.generation)
    assert not none.cards
