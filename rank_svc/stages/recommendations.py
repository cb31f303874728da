"""Whose posts a viewer might like though they do not follow them, and which. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from foundation.cards import AuthorCard
from foundation.viewers import ViewerRecord
from foundation.visibility import EdgeState, PostState, Surface, UserState, visible
from rank_svc.model import Ids, Matrix

FOLLOWEES = 30
"""Followees of the viewer who are asked whom they follow."""
FOLLOWED_BY_ONE = 200
"""Of each of them, so many are looked at."""
FRIENDS_OF_FRIENDS = 100
"""Authors who are looked at. With this and FOLLOWEES one viewer takes 2 ms of CPU; with twice as many it takes 4."""
POSTS_OF_ONE = 3
"""Most posts of one author."""
_MIX = 0x9E3779B97F4A7C15


def sample(ids: Collection[int], count: int, seed: int) -> list[int]:
    """*count* of *ids*, others for another seed."""
    return sorted(ids, key=lambda one: (one ^ seed) * _MIX & 0xFFFFFFFFFFFFFFFF)[:count]


def friends_of_friends(
    viewer_id: int, viewer: ViewerRecord, followees: Iterable[ViewerRecord]
) -> list[tuple[int, int]]:
    """At most FRIENDS_OF_FRIENDS (author, how many of *followees* follow them), most followed first.

    Nobody whom the viewer follows, blocks, mutes or is blocked by, and not the viewer.
    """
    counts: Counter[int] = Counter()
    for followee in followees:
        if followee.state is UserState.ACTIVE:
            counts.update(islice(followee.follows, FOLLOWED_BY_ONE))
    for excluded in (viewer.follows, viewer.blocks, viewer.mutes, (viewer_id,)):
        for user_id in excluded:
            counts.pop(user_id, None)
    return counts.most_common(FRIENDS_OF_FRIENDS)


def open_to(viewer_id: int, viewer: ViewerRecord, authors: Mapping[int, AuthorCard]) -> dict[int, AuthorCard]:
    """Those of *authors* whose posts may be recommended: active, public."""
    return {
        author_id: author
        for author_id, author in authors.items()
        if viewer.edge(author_id).follow is not EdgeState.FOLLOWING
        and author_id != viewer_id
        and visible(viewer_id, author.facts, PostState.ACTIVE, viewer.edge(author_id), Surface.RECOMMENDED)
    }


def popularity(
    values: Matrix,
    columns: Mapping[str, int],
    followers: NDArray[np.float32],
    friends: NDArray[np.float32],
    ages_h: NDArray[np.float32],
) -> NDArray[np.float32]:
    """A score per post: what it got, how large its author is, how many friends follow them, less its age in days."""
    likes, comments, saves = (values[:, columns[name]] for name in ("like_count", "comment_count", "save_count"))
    engagement = np.log1p(likes + 2 * comments + 3 * saves)
    score: NDArray[np.float32] = engagement + 0.5 * np.log1p(followers) + np.log1p(friends) - ages_h / 24
    return score


def best_of_each(post_ids: Ids, author_ids: Ids, scores: NDArray[np.float32], limit: int) -> Sequence[int]:
    """At most *limit* ids, best first (ties to the greater id), at most POSTS_OF_ONE of an author."""
    of_author: Counter[int] = Counter()
    chosen: list[int] = []
    for at in np.lexsort((-post_ids, -scores)).tolist():
        author_id = int(author_ids[at])
        if len(chosen) < limit and of_author[author_id] < POSTS_OF_ONE:
            of_author[author_id] += 1
            chosen.append(int(post_ids[at]))
    return chosen
