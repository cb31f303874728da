"""Which keys are read most, from samples."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from foundation.redis.sampling import SAMPLED_ONE_IN, KeySampler, TopKeys


@given(keys=st.lists(st.sampled_from("abcdefghij"), max_size=200), counters=st.integers(1, 6))
def test_what_is_frequent_is_counted_and_nothing_is_counted_too_high(keys: list[str], counters: int) -> None:
    top = TopKeys(counters)
    for key in keys:
        top.add(key)
    certain, truth = top.certain(), Counter(keys)
    assert len(certain) <= counters
    assert all(0 < count <= truth[key] for key, count in certain.items())
    assert {key for key, count in truth.items() if count > len(keys) / counters} <= set(certain)


def sample(sampler: KeySampler, batches: list[list[str]]) -> None:
    for keys in batches:
        sampler.left -= len(keys)
        if sampler.left < 0:
            sampler.look(keys)


@given(size=st.integers(1, 300), share=st.integers(2, 64))
def test_the_estimate_is_near_whatever_the_batches(size: int, share: int) -> None:
    """A key at a fixed place of every round is neither missed nor overrated."""
    keys = ["hot" if n % share == 0 else f"k{n}" for n in range(100_000)]
    sampler = KeySampler()
    sample(sampler, [keys[start : start + size] for start in range(0, len(keys), size)])
    true_count = keys.count("hot")
    expected_error = 5 * (true_count * SAMPLED_ONE_IN) ** 0.5 + 100_000 / 128
    assert abs(sampler.window().get("hot", 0) - true_count) < expected_error
    assert sampler.window() == {}


def test_keys_are_text_whatever_they_were_given_as() -> None:
    sampler = KeySampler()
    sample(sampler, [[key] for _ in range(300) for key in ("7", b"7", 7)])  # type: ignore[list-item]
    assert set(sampler.window()) == {"7"}
