"""The plain values of delivery."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class NewPost:
    """A post to deliver."""

    post_id: int
    author_id: int


@dataclass(slots=True, frozen=True)
class NewFollow:
    """A follow whose followee's recent posts are to be found in the follower's timeline."""

    follower_id: int
    followee_id: int
