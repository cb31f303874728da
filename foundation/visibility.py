"""Who may see what: the one pure rule that every surface uses (DESIGN: privacy is never degraded)."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class UserState(IntEnum):
    """State of an account."""

    ACTIVE = 1
    DEACTIVATED = 2
    DELETED = 3


class PostState(IntEnum):
    """State of a post."""

    ACTIVE = 1
    DELETED = 2


class EdgeState(IntEnum):
    """State of a follow."""

    NONE = 0
    FOLLOWING = 1
    REQUESTED = 2


class Surface(IntEnum):
    """Where the post would be shown."""

    FEED = 1
    """The home feed: only what is followed or one's own; mutes apply."""
    DIRECT = 2
    """By id or on a profile: mutes do not apply."""
    RECOMMENDED = 3
    """In the home feed without being followed: never one's own, only of public authors; mutes apply."""


class AuthorFacts(NamedTuple):
    """What the rule needs to know of an author."""

    author_id: int
    state: UserState
    is_private: bool


class Edge(NamedTuple):
    """What the viewer and the author are to each other."""

    follow: EdgeState
    """The viewer's follow of the author."""
    blocked: bool
    """Either blocks the other."""
    muted: bool
    """The viewer mutes the author."""


def visible(viewer_id: int, author: AuthorFacts, post: PostState, edge: Edge, surface: Surface) -> bool:
    """True if *viewer_id* may see a post in state *post* by *author* on *surface*.

    Deleted posts and posts of accounts that are not active are never visible, not even to their author.
    """
    if post is not PostState.ACTIVE or author.state is not UserState.ACTIVE:
        return False
    if viewer_id == author.author_id:
        return surface is not Surface.RECOMMENDED
    if edge.blocked:
        return False
    following = edge.follow is EdgeState.FOLLOWING
    if author.is_private and not following:
        return False
    if surface is Surface.FEED:
        return following and not edge.muted
    if surface is Surface.RECOMMENDED:
        return not edge.muted
    return True
