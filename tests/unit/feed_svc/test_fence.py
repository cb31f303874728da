"""The fence hides what was deleted or blocked within the hour, whatever order and how often it hears of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feed_svc.adapters import fence_memory
from feed_svc.adapters.fence_memory import REMEMBERED_S, MemoryFence
from foundation.model.clock import Millis

people = st.integers(1, 4)
changes = st.tuples(people, people, st.integers(1, 30), st.booleans())


class SteppingClock:
    now_s = 0.0

    def now_ms(self) -> Millis:
        return Millis(int(self.now_s * 1_000))

    def monotonic(self) -> float:
        return self.now_s


def test_deleted_posts_are_remembered_for_an_hour() -> None:
    clock = SteppingClock()
    fence = MemoryFence(clock)
    fence.post_deleted(1)
    clock.now_s = REMEMBERED_S - 1
    fence.post_deleted(2)
    assert list(fence.deleted([1, 2, 3])) == [1, 2]
    clock.now_s = REMEMBERED_S + 1
    fence.post_deleted(4)
    assert list(fence.deleted([1, 2, 3, 4])) == [2, 4]


def test_more_than_it_holds_pushes_out_the_oldest(monkeypatch) -> None:
    monkeypatch.setattr(fence_memory, "MOST", 2)
    fence = MemoryFence(SteppingClock())
    for post_id in (1, 2, 3):
        fence.post_deleted(post_id)
    assert list(fence.deleted([1, 2, 3])) == [2, 3]


@given(st.lists(changes, max_size=30), st.randoms(use_true_random=False))
def test_blocks_stand_as_the_newest_change_says_in_any_order(told: list[tuple[int, int, int, bool]], chance) -> None:
    # A version says one thing only.
    newest: dict[tuple[int, int, int], bool] = {}
    for one, other, version, blocked in told:
        if one != other:
            newest.setdefault((one, other, version), blocked)
    heard = [(*key, blocked) for key, blocked in newest.items()]
    chance.shuffle(heard)
    fence = MemoryFence(SteppingClock())
    for one, other, version, blocked in [*heard, *heard]:
        fence.block_changed(one, other, version=version, blocked=blocked)
    standing: dict[tuple[int, int], bool] = {}
    for one, other, _, blocked in sorted(heard, key=lambda change: change[2]):
        standing[one, other] = blocked
    for user in range(1, 5):
        expected = {other for (one, other), blocked in standing.items() if blocked and one == user} | {
            one for (one, other), blocked in standing.items() if blocked and other == user
        }
        assert fence.blocked_with(user) == expected


def test_a_block_that_was_heard_of_long_ago_is_left_to_the_records() -> None:
    clock = SteppingClock()
    fence = MemoryFence(clock)
    fence.block_changed(1, 2, version=5, blocked=True)
    clock.now_s = REMEMBERED_S + 1
    fence.block_changed(3, 4, version=6, blocked=True)
    assert fence.blocked_with(1) == frozenset()
    assert fence.blocked_with(4) == {3}
