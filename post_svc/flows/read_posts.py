"""Posts by id and by author, for one viewer: what is not visible does not exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foundation.cards import AuthorCard, splice_post
from foundation.errors import NotFound
from foundation.visibility import PostState, Surface, UserState, visible
from post_svc.model import Post
from post_svc.ports import Cards, People, Posts


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPosts:
    """Answers are encoded feedmesh.post.v1.Post, spliced from card and author."""

    posts: Posts
    people: People
    cards: Cards

    async def one(self, viewer_id: int, post_id: int) -> bytes:
        """Raises NotFound(POST_NOT_FOUND)."""
        post = (await self.posts.get([post_id])).get(post_id)
        if post is not None:
            author = await self._author(post.author_id)
            if author is not None and await self._visible(viewer_id, author, post):
                return self.spliced(post, author)
        raise NotFound("POST_NOT_FOUND", "no such post", post_id=post_id)

    async def by_author(
        self, viewer_id: int, author_id: int, *, before_id: int, limit: int
    ) -> tuple[Sequence[bytes], int]:
        """At most *limit* posts, newest first, and where the next page begins; 0 at the end.

        Raises NotFound(USER_NOT_FOUND) for an author whom the viewer may not see at all.
        """
        author = await self._author(author_id)
        if author is None or author.facts.state is not UserState.ACTIVE:
            raise NotFound("USER_NOT_FOUND", "no such user", user_id=author_id)
        viewer = await self.people.viewer(viewer_id)
        if author_id != viewer_id and author_id in viewer.blocks:
            raise NotFound("USER_NOT_FOUND", "no such user", user_id=author_id)
        if not visible(viewer_id, author.facts, PostState.ACTIVE, viewer.edge(author_id), Surface.DIRECT):
            return [], 0
        posts = await self.posts.by_author(author_id, before_id=before_id, limit=limit + 1)
        after = posts[limit - 1].post_id if len(posts) > limit else 0
        return [self.spliced(post, author) for post in posts[:limit]], after

    async def own(self, post: Post) -> bytes:
        """A post that its author has just changed."""
        author = await self._author(post.author_id)
        if author is None:
            raise NotFound("POST_NOT_FOUND", "no such post", post_id=post.post_id)
        return self.spliced(post, author)

    def spliced(self, post: Post, author: AuthorCard) -> bytes:
        """The encoded answer."""
        return splice_post(self.cards.encode(post), author.encoded)

    async def _author(self, author_id: int) -> AuthorCard | None:
        return (await self.people.authors([author_id])).get(author_id)

    async def _visible(self, viewer_id: int, author: AuthorCard, post: Post) -> bool:
        viewer = await self.people.viewer(viewer_id)
        return visible(viewer_id, author.facts, post.state, viewer.edge(post.author_id), Surface.DIRECT)
