"""PostInternalService: what other services ask of posts."""

from __future__ import annotations

from contextlib import suppress

from feedmesh.post.v1 import post_internal_service_pb2 as pb

from foundation.errors import Unavailable
from foundation.rpc.server import Call
from foundation.timeline.port import CAPACITY
from post_svc.flows.create_posts import CreatePosts
from post_svc.flows.fill_author_posts import FillAuthorPosts
from post_svc.ports import Cards, Posts
from post_svc.stages.text import clean_draft

FILL_TIMEOUT_S = 0.05
"""How long who asks waits for the cache to take the cards, of 200 ms in all: a silent node must not cost the answer."""


class PostInternalHandlers:
    """The handlers of PostInternalService."""

    def __init__(
        self, *, posts: Posts, cards: Cards, create_posts: CreatePosts, fill_author_posts: FillAuthorPosts
    ) -> None:
        self._posts = posts
        self._cards = cards
        self._create_posts = create_posts
        self._fill_author_posts = fill_author_posts

    async def BatchGetPosts(self, request: pb.BatchGetPostsRequest, _: Call) -> pb.BatchGetPostsResponse:
        found = list((await self._posts.get(list(request.post_ids))).values())
        with suppress(Unavailable):  # the asker gets the cards all the same
            await self._cards.tell(found, timeout_s=FILL_TIMEOUT_S)
        return pb.BatchGetPostsResponse(
            post_ids=[post.post_id for post in found], cards=[self._cards.record(post) for post in found]
        )

    async def ListRecentPosts(self, request: pb.ListRecentPostsRequest, _: Call) -> pb.ListRecentPostsResponse:
        limit = request.limit_per_author or CAPACITY
        author_ids = list(request.author_ids)
        if request.before_id:
            # Below a bound: what no timeline holds, so there is none to fill.
            recent = await self._posts.recent(
                author_ids, after_id=request.after_id, before_id=request.before_id, limit=limit
            )
        else:
            recent = await self._fill_author_posts(author_ids)
        answer = pb.ListRecentPostsResponse()
        for author_id in request.author_ids:
            timeline = recent[author_id]
            ids = [post_id for post_id in timeline.ids if post_id > request.after_id]
            floor = ids[limit] if len(ids) > limit else max(timeline.floor, request.after_id)
            answer.authors.add(author_id=author_id, post_ids=ids[:limit], floor=floor)
        return answer

    async def ImportPosts(self, request: pb.ImportPostsRequest, _: Call) -> pb.ImportPostsResponse:
        drafts = [(post.author_id, clean_draft(post.caption, post.hashtags, "")) for post in request.posts]
        return pb.ImportPostsResponse(post_ids=await self._create_posts.many(drafts))
