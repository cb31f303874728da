"""Arrangement of a head: at most AUTHOR_CAP posts of one author per window, nothing dropped (rule 7). Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feed_svc.model import AUTHOR_CAP, WINDOW


def arrange(ids: Sequence[int], author_ids: Sequence[int]) -> list[int]:
    """*ids* in an order where no window of WINDOW slots holds more than AUTHOR_CAP of one author, best kept first.

    Surplus moves down to the next window that has room. When only surplus is left the cap can't hold: the rest follows
    in its order. Author 0 is unknown and never capped.
    """
    if _fits_already(author_ids):
        return list(ids)
    arranged: list[int] = []
    waiting = list(zip(ids, author_ids, strict=True))
    while waiting:
        taken: dict[int, int] = {}
        surplus: list[tuple[int, int]] = []
        room = WINDOW
        for place, (post_id, author_id) in enumerate(waiting):
            if room == 0:
                surplus.extend(waiting[place:])
                break
            count = taken.get(author_id, 0)
            if count >= AUTHOR_CAP and author_id:
                surplus.append((post_id, author_id))
                continue
            taken[author_id] = count + 1
            arranged.append(post_id)
            room -= 1
        if room:
            # The window could not be filled: only surplus is left, and it keeps its order.
            arranged.extend(post_id for post_id, _ in surplus)
            break
        waiting = surplus
    return arranged


def _fits_already(author_ids: Sequence[int]) -> bool:
    """True if no window holds more than AUTHOR_CAP of one author: the usual head of who follows many."""
    count = len(author_ids)
    padded = np.zeros(-(-count // WINDOW) * WINDOW, dtype=np.int64)
    padded[:count] = author_ids
    windows = np.sort(padded.reshape(-1, WINDOW), axis=1)
    crowded = windows[:, AUTHOR_CAP:] == windows[:, :-AUTHOR_CAP]
    return not (crowded & (windows[:, AUTHOR_CAP:] != 0)).any()
