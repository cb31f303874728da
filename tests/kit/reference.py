"""The feed system as plain dicts: what every profile must agree with."""

from __future__ import annotations

from collections import defaultdict


class ReferenceWorld:
    """Who follows whom and who wrote what; feeds are computed from scratch at each question."""

    def __init__(self) -> None:
        self.follows: dict[int, set[int]] = defaultdict(set)
        self.blocks: set[tuple[int, int]] = set()
        self.mutes: set[tuple[int, int]] = set()
        self.author_of: dict[int, int] = {}
        self.posts_by: dict[int, list[int]] = defaultdict(list)
        self.captions: dict[int, str] = {}
        self.deleted: set[int] = set()

    def post(self, author: int, post: int, caption: str = "") -> None:
        self.author_of[post] = author
        self.posts_by[author].append(post)
        self.captions[post] = caption

    def block(self, blocker: int, blocked: int) -> None:
        self.blocks.add((blocker, blocked))
        self.follows[blocker].discard(blocked)
        self.follows[blocked].discard(blocker)

    def blocked(self, one: int, other: int) -> bool:
        return (one, other) in self.blocks or (other, one) in self.blocks

    def latest(self, viewer: int) -> list[int]:
        """The viewer's LATEST feed: all that they may see of whom they follow and of their own, newest first.

        Nothing in a test is older than the 7 days that a feed goes back.
        """
        authors = {viewer, *self.follows[viewer]}
        newest = sorted((post for author in authors for post in self.posts_by[author]), reverse=True)
        return [post for post in newest if self.shows(viewer, post)]

    def shows(self, viewer: int, post: int) -> bool:
        author = self.author_of[post]
        if post in self.deleted:
            return False
        if author == viewer:
            return True
        return (
            author in self.follows[viewer] and not self.blocked(viewer, author) and (viewer, author) not in self.mutes
        )

    def may_see(self, viewer: int, post: int) -> bool:
        """By id: follows and mutes do not matter."""
        return post in self.author_of and post not in self.deleted and not self.blocked(viewer, self.author_of[post])

    def follower_count(self, user: int) -> int:
        return sum(user in followees for followees in self.follows.values())
