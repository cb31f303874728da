"""PostService: decode, run the flow, encode."""

from __future__ import annotations

from feedmesh.post.v1 import post_service_pb2 as pb

from foundation.cards import varint
from foundation.errors import InvalidArgument, PermissionDenied
from foundation.list_cursors import ListCursors, page_limit
from foundation.model.ids import created_ms
from foundation.rpc.server import Call
from post_svc.flows.change_post import ChangePost
from post_svc.flows.create_posts import CreatePosts
from post_svc.flows.read_posts import ReadPosts
from post_svc.model import READY_WITHIN_MS, Patch
from post_svc.stages.text import clean_caption, clean_draft, clean_hashtags

_FIRST_FIELD = b"\x0a"  # field 1, length-delimited: GetPostResponse.post, ListUserPostsResponse.posts


class PostHandlers:
    """The handlers of PostService."""

    def __init__(
        self, *, create_posts: CreatePosts, change_post: ChangePost, read_posts: ReadPosts, cursors: ListCursors
    ) -> None:
        self._create_posts = create_posts
        self._change_post = change_post
        self._read_posts = read_posts
        self._cursors = cursors

    async def CreatePost(self, request: pb.CreatePostRequest, call: Call) -> pb.CreatePostResponse:
        if request.author_id not in (0, call.user_id):
            raise PermissionDenied("AUTHOR_MISMATCH", "author_id is not the caller", author_id=request.author_id)
        if request.media_ids:
            raise InvalidArgument("MEDIA_UNKNOWN", "no such upload of yours", media_id=request.media_ids[0])
        draft = clean_draft(request.caption, request.hashtags, request.location_id)
        post_id = await self._create_posts.one(call.user_id, draft, request.request_id)
        call.set_header("x-http-status", "201")
        response = pb.CreatePostResponse(post_id=post_id, status="processing")
        response.estimated_ready_at.FromMilliseconds(created_ms(post_id) + READY_WITHIN_MS)
        return response

    async def GetPost(self, request: pb.GetPostRequest, call: Call) -> bytes:
        return _field(await self._read_posts.one(call.user_id, request.post_id))

    async def UpdatePost(self, request: pb.UpdatePostRequest, call: Call) -> bytes:
        patch = Patch(
            caption=clean_caption(request.caption) if request.HasField("caption") else None,
            hashtags=clean_hashtags(request.hashtags.values) if request.HasField("hashtags") else None,
            location_id=request.location_id if request.HasField("location_id") else None,
        )
        post = await self._change_post.update(call.user_id, request.post_id, patch)
        return _field(await self._read_posts.own(post))

    async def DeletePost(self, request: pb.DeletePostRequest, call: Call) -> pb.DeletePostResponse:
        await self._change_post.delete(call.user_id, request.post_id)
        return pb.DeletePostResponse()

    async def ListUserPosts(self, request: pb.ListUserPostsRequest, call: Call) -> bytes:
        before_id = self._cursors.open(call.user_id, request.user_id, request.cursor)
        posts, after = await self._read_posts.by_author(
            call.user_id, request.user_id, before_id=before_id, limit=page_limit(request.limit)
        )
        cursor = self._cursors.seal(call.user_id, request.user_id, after)
        tail = pb.ListUserPostsResponse(next_cursor=cursor, has_more=bool(cursor))
        return b"".join([*map(_field, posts), tail.SerializeToString()])


def _field(post: bytes) -> bytes:
    return _FIRST_FIELD + varint(len(post)) + post
