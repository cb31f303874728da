"""A post is written: one durable row with its event, then the author's timeline and the card, then the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from foundation.cards import AuthorCard
from foundation.errors import AlreadyExists, NotFound, Unavailable
from foundation.model.clock import Clock
from foundation.model.ids import Ids
from foundation.timeline.port import Pushed, Timelines
from foundation.visibility import PostState, UserState
from post_svc.flows.fill_author_posts import FillAuthorPosts
from post_svc.model import Created, CreateOutcome, Draft, NewPost, Post
from post_svc.ports import Cards, Outbox, People, Posts


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePosts:
    """Acknowledged after the row is durable; delivery follows from the event, at least once."""

    posts: Posts
    people: People
    cards: Cards
    author_posts: Timelines
    fill_author_posts: FillAuthorPosts
    outbox: Outbox
    ids: Ids
    clock: Clock
    readers_timeout_s: float

    async def one(self, author_id: int, draft: Draft, request_id: str) -> int:
        """The id of the new post, or of the one this request made before.

        Raises NotFound(USER_NOT_FOUND), AlreadyExists(IDEMPOTENCY_MISMATCH), Unavailable and DeadlineExceeded: of the
        last two the outcome is unknown, a retry with the same request id tells.
        """
        authors = await self._active([author_id])
        (created,) = await self._store([(author_id, draft)], authors, request_id)
        if created.outcome is CreateOutcome.REQUEST_MISMATCH:
            raise AlreadyExists("IDEMPOTENCY_MISMATCH", "this request_id was used for another post")
        return created.post_id

    async def many(self, drafts: Sequence[tuple[int, Draft]]) -> Sequence[int]:
        """Ids of new posts in the order of (author, draft); on return their events are in the log."""
        authors = await self._active(sorted({author_id for author_id, _ in drafts}))
        created = await self._store(drafts, authors, "")
        await self.outbox.flush()
        return [one.post_id for one in created]

    async def _store(
        self, drafts: Sequence[tuple[int, Draft]], authors: Mapping[int, AuthorCard], request_id: str
    ) -> Sequence[Created]:
        new = [
            NewPost(
                self.ids.next(),
                author_id,
                draft,
                request_id,
                author_tier=authors[author_id].tier,
                author_followers=authors[author_id].follower_count,
            )
            for author_id, draft in drafts
        ]
        with ExitStack() as writing:
            for post in new:
                writing.enter_context(self.outbox.writing(post.post_id))
            created = await self.posts.create(new, now_ms=self.clock.now_ms())
        try:
            await self._tell_readers(
                [
                    replace(post, post_id=one.post_id)
                    for post, one in zip(new, created, strict=True)
                    if one.outcome is CreateOutcome.CREATED
                ]
            )
        finally:
            for post, one in zip(new, created, strict=True):
                self.outbox.publish(post.post_id, one.events)
        return created

    async def _tell_readers(self, new: Sequence[NewPost]) -> None:
        """Best effort: fan-out inserts into author timelines again, and cards are filled when they are missed."""
        if not new:
            return
        posts = [Post(post.post_id, post.author_id, post.draft, PostState.ACTIVE, 1) for post in new]
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(self.readers_timeout_s):
                pushed, _ = await asyncio.gather(
                    self.author_posts.push_each([(post.author_id, post.post_id) for post in new]),
                    self.cards.tell(posts, timeout_s=self.readers_timeout_s),
                )
                cold = {post.author_id for post, one in zip(new, pushed, strict=True) if one is Pushed.COLD}
                if cold:
                    await self.fill_author_posts(sorted(cold))

    async def _active(self, author_ids: Sequence[int]) -> Mapping[int, AuthorCard]:
        authors = await self.people.authors(author_ids)
        for author_id in author_ids:
            if author_id not in authors or authors[author_id].facts.state is not UserState.ACTIVE:
                raise NotFound("USER_NOT_FOUND", "no such user", user_id=author_id)
        return authors
