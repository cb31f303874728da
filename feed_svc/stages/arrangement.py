"""Arrangement of a head: authors capped and kinds mixed per window, nothing dropped (rule 7). Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np

from feed_svc.model import AUTHOR_CAP, WINDOW, Kind, Ranked

MOST = {Kind.PULLED: 3, Kind.RECOMMENDED: 3}
"""Of each kind in a window of WINDOW, as long as others can fill it (seed section 5)."""
LEAST = {Kind.PULLED: 2, Kind.RECOMMENDED: 2}
"""Of each kind in a window, as long as there are any: so 14-16 are left to what is pushed."""

# A look-up on the enum takes 50 ns; these run for every post of every head.
_PUSHED, _PULLED, _RECOMMENDED = Kind.PUSHED, Kind.PULLED, Kind.RECOMMENDED


def compose(ranked: Ranked, *, pulled: Collection[int], recommended: Collection[int] = ()) -> Ranked:
    """A head: *ranked*, arranged by authors and, where some are *pulled* or *recommended*, by kinds."""
    ids, author_ids = ranked.ids, ranked.author_ids
    places: dict[Kind, list[int]] = {}
    if recommended:
        places[_RECOMMENDED] = [place for place, post_id in enumerate(ids) if post_id in recommended]
    if pulled:
        places[_PULLED] = [
            place
            for place, author_id in enumerate(author_ids)
            if author_id in pulled and not (recommended and ids[place] in recommended)
        ]
    order = arrange(author_ids, places)
    if isinstance(order, range):
        return ranked
    return replace(ranked, ids=_at(ids, order), author_ids=_at(author_ids, order))


def arrange(author_ids: Sequence[int], places: Mapping[Kind, Sequence[int]]) -> Sequence[int]:
    """Places in an order where no window of WINDOW slots holds more than AUTHOR_CAP of one author, best kept first.

    *places*, ascending, are those of each kind that is not pushed: each window also holds LEAST to MOST of these; short
    kinds are filled by others. Surplus moves down to the next window that has room. When only surplus is left the cap
    can't hold: the rest follows in its order. Author 0 is unknown and never capped.
    """
    count = len(author_ids)
    # Where the mix alone keeps the cap it is what choosing post by post would come to, at a tenth of the cost.
    mixed = _mixed(count, places) if any(places.values()) else range(count)
    if _fits_already(author_ids if isinstance(mixed, range) else _at(author_ids, mixed)):
        return mixed
    kind_of = {place: kind for kind, those in places.items() for place in those}
    arranged: list[int] = []
    waiting = [(place, author_id, kind_of.get(place, _PUSHED)) for place, author_id in enumerate(author_ids)]
    left = {kind: len(those) for kind, those in places.items()}
    while waiting:
        chosen = _window(waiting, left)
        arranged.extend(waiting[at][0] for at in chosen)
        for at in reversed(chosen):
            _, _, kind = waiting.pop(at)
            if kind in left:
                left[kind] -= 1
        if len(chosen) < WINDOW:
            # The window could not be filled: only surplus is left, and it keeps its order.
            arranged.extend(place for place, _, _ in waiting)
            break
    return arranged


def _mixed(count: int, places_of: Mapping[Kind, Sequence[int]]) -> list[int]:
    """All of *count* places, window by window, each with its share of each kind, as if no author were capped.

    What is due to the kinds leaves a window some slots. They go to whoever comes first: what is pushed, or what a kind
    may have beyond its due.
    """
    shares = [([*places_of[kind]], LEAST[kind], MOST[kind]) for kind in LEAST if places_of.get(kind)]
    pushed = [*range(count)]
    for place in sorted((place for places, _, _ in shares for place in places), reverse=True):
        del pushed[place]
    mixed: list[int] = []
    while shares and count - len(mixed) > WINDOW:
        window = [place for places, least, _ in shares for place in places[:least]]
        free = WINDOW - len(window)
        first = pushed[:free]
        for places, least, most in shares:
            first += places[least:most]
        first.sort()
        last = first[:free][-1] if first else -1
        window += first[:free]
        del pushed[: bisect_right(pushed, last)]
        for places, least, most in shares:
            del places[: max(least, min(most, bisect_right(places, last)))]
        if len(window) < WINDOW:
            # Nothing pushed is left: the kinds fill it up.
            rest = sorted(place for places, _, _ in shares for place in places)[: WINDOW - len(window)]
            window += rest
            for places, _, _ in shares:
                del places[: bisect_right(places, rest[-1])]
        window.sort()
        mixed += window
        shares = [share for share in shares if share[0]]
    left = pushed + [place for places, _, _ in shares for place in places]
    left.sort()
    return mixed + left


def _at(values: Sequence[int], places: Sequence[int]) -> Sequence[int]:
    # A getter of many is four times as fast as a loop; a getter of one returns no sequence.
    return itemgetter(*places)(values) if len(places) > 1 else [values[place] for place in places]


def _window(waiting: Sequence[tuple[int, int, Kind]], left: Mapping[Kind, int]) -> list[int]:
    """Places of *waiting* that make the next window, ascending; *left* tells how many of each kind wait."""
    due = {kind: min(least, left.get(kind, 0)) for kind, least in LEAST.items()}
    owed_to_all = sum(due.values())
    of_author: defaultdict[int, int] = defaultdict(int)
    of_kind: defaultdict[Kind, int] = defaultdict(int)
    chosen: list[int] = []

    def fits(kind: Kind) -> bool:
        """Within the share of the kind, and with room left for what is due to the others."""
        owed = owed_to_all - max(0, due.get(kind, 0) - of_kind[kind])
        return of_kind[kind] < MOST.get(kind, WINDOW) and len(chosen) + owed < WINDOW

    for by_kind in (True, False):  # first each kind its share, then whoever is next
        taken = set(chosen)
        for place, (_, author_id, kind) in enumerate(waiting):
            if len(chosen) == WINDOW:
                break
            if place in taken or (author_id and of_author[author_id] >= AUTHOR_CAP) or (by_kind and not fits(kind)):
                continue
            of_author[author_id] += 1
            owed_to_all -= of_kind[kind] < due.get(kind, 0)
            of_kind[kind] += 1
            chosen.append(place)
    return sorted(chosen)


def _fits_already(author_ids: Sequence[int]) -> bool:
    """True if no window holds more than AUTHOR_CAP of one author: the usual head of who follows many."""
    count = len(author_ids)
    padded = np.zeros(-(-count // WINDOW) * WINDOW, dtype=np.int64)
    padded[:count] = np.fromiter(author_ids, dtype=np.int64, count=count)
    windows = np.sort(padded.reshape(-1, WINDOW), axis=1)
    crowded = windows[:, AUTHOR_CAP:] == windows[:, :-AUTHOR_CAP]
    return not (crowded & (windows[:, AUTHOR_CAP:] != 0)).any()
