"""The feed system as plain dicts: what every profile must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field

FEED_CAPACITY = 500


@dataclass
class ReferenceWorld:
    """Who follows whom and who wrote what; feeds are computed from scratch at each question."""

    follows: dict[int, set[int]] = field(default_factory=dict)
    blocks: set[tuple[int, int]] = field(default_factory=set)
    mutes: set[tuple[int, int]] = field(default_factory=set)
    posts: dict[int, int] = field(default_factory=dict)
    """post id -> author"""
    deleted: set[int] = field(default_factory=set)

    def add_user(self, user: int) -> None:
        self.follows.setdefault(user, set())

    def may_follow(self, follower: int, followee: int) -> bool:
        return follower != followee and not self.blocked(follower, followee)

    def follow(self, follower: int, followee: int) -> None:
        self.follows[follower].add(followee)

    def unfollow(self, follower: int, followee: int) -> None:
        self.follows[follower].discard(followee)

    def block(self, blocker: int, blocked: int) -> None:
        self.blocks.add((blocker, blocked))
        self.unfollow(blocker, blocked)
        self.unfollow(blocked, blocker)

    def unblock(self, blocker: int, blocked: int) -> None:
        self.blocks.discard((blocker, blocked))

    def blocked(self, one: int, other: int) -> bool:
        return (one, other) in self.blocks or (other, one) in self.blocks

    def latest(self, viewer: int) -> list[int]:
        """The viewer's LATEST feed: the newest FEED_CAPACITY of the timeline, hidden ones left out."""
        authors = {viewer, *self.follows[viewer]}
        newest = sorted((post for post, author in self.posts.items() if author in authors), reverse=True)
        return [post for post in newest[:FEED_CAPACITY] if self.shows(viewer, post)]

    def shows(self, viewer: int, post: int) -> bool:
        author = self.posts[post]
        if post in self.deleted:
            return False
        if author == viewer:
            return True
        return (
            author in self.follows[viewer] and not self.blocked(viewer, author) and (viewer, author) not in self.mutes
        )

    def may_see(self, viewer: int, post: int) -> bool:
        """By id: follows and mutes do not matter."""
        return post in self.posts and post not in self.deleted and not self.blocked(viewer, self.posts[post])

    def follower_count(self, user: int) -> int:
        return sum(1 for followees in self.follows.values() if user in followees)
