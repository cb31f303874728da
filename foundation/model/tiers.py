"""How an author's posts reach readers, by how many follow them (seed sections 5 and 9.2)."""

from __future__ import annotations

from enum import IntEnum


class Tier(IntEnum):
    """Delivery of an author's posts. Stored with the author; every event of a post tells the one that was used."""

    PUSH = 1
    """Into the followers' timelines."""
    BOTH = 2
    """Pushed, and readers may pull: while an author crosses the border in either direction."""
    PULL = 3
    """Readers pull them from `author_posts`."""
    SUPER = 4
    """As PULL, and reading processes keep them cached for a moment."""

    @property
    def pushed(self) -> bool:
        """Whether posts go into timelines."""
        return self <= Tier.BOTH

    @property
    def pulled(self) -> bool:
        """Whether a reader may have to pull."""
        return self >= Tier.BOTH


PULL_FROM = 10_000
"""Followers from which an author is pulled."""
SUPER_FROM = 1_000_000
"""Followers from which an author is also cached in processes."""
