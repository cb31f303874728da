"""Which keys are read most, from one command in 64: a fixed number of counters, whatever the number of keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SAMPLED_ONE_IN = 64
COUNTERS = 128
"""A key that has more than one in so many of all samples is always among the counted."""


class TopKeys:
    """The keys counted most, by the algorithm SpaceSaving: a new key takes over the counter of the least counted."""

    def __init__(self, counters: int = COUNTERS) -> None:
        self._counters = counters
        self._counts: dict[str, int] = {}
        self._inherited: dict[str, int] = {}
        """What a key's count was when it took it over: at most so much of the count is not its own."""
        self._with_count: dict[int, dict[str, None]] = {}
        self._least = 0

    def add(self, key: str) -> None:
        """Count one; in the same time whatever the number of counters."""
        count = self._counts.get(key)
        if count is not None:
            del self._with_count[count][key]
        elif len(self._counts) < self._counters:
            count = self._inherited[key] = 0
            self._least = 1
        else:
            count = self._inherited[key] = self._least
            replaced = next(iter(self._with_count[count]))
            del self._with_count[count][replaced], self._counts[replaced], self._inherited[replaced]
        self._counts[key] = count + 1
        self._with_count.setdefault(count + 1, {})[key] = None
        if not self._with_count.get(self._least):
            self._with_count.pop(self._least, None)
            self._least += 1  # where the key is that left the least

    def certain(self) -> Mapping[str, int]:
        """Each counted key and how often it was added at least."""
        return {key: count - self._inherited[key] for key, count in self._counts.items()}


class KeySampler:
    """Looks at one command in SAMPLED_ONE_IN of a client, on average; the gaps vary, so that no rhythm hides a key."""

    def __init__(self) -> None:
        self.left = 0
        """Commands to let pass before the next one that is looked at; below 0: that one was among the last."""
        self._state = 1
        self._top = TopKeys()

    def look(self, keys: Sequence[str | bytes | int]) -> None:
        """Once `left`, less the number of commands, is below 0: count those that are due by their *keys*."""
        place = self.left + len(keys)
        while place < len(keys):
            key = keys[place]
            self._top.add(key.decode(errors="replace") if isinstance(key, bytes) else str(key))
            place += self._gap()
        self.left = place - len(keys)

    def window(self) -> Mapping[str, int]:
        """How many commands each key of the top had at least since the last call, as far as samples tell."""
        top, self._top = self._top, TopKeys()
        return {key: samples * SAMPLED_ONE_IN for key, samples in top.certain().items()}

    def _gap(self) -> int:
        """1 to 127. A linear congruential generator: nothing here needs to be hard to guess."""
        self._state = (self._state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) & 0xFFFF_FFFF_FFFF_FFFF
        return 1 + (self._state >> 33) % (2 * SAMPLED_ONE_IN - 1)
