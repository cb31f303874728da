"""GraphService and UserService: decode, run the flow, encode."""

from __future__ import annotations

from feedmesh.graph.v1 import graph_pb2, user_service_pb2
from feedmesh.graph.v1 import graph_service_pb2 as pb

from foundation.list_cursors import ListCursors, page_limit
from foundation.rpc.server import Call
from graph_svc.edge.wire import relationship_message, user_message
from graph_svc.flows.change_blocks import ChangeBlocks
from graph_svc.flows.change_follows import ChangeFollows
from graph_svc.flows.keep_accounts import KeepAccounts
from graph_svc.flows.list_people import ListPeople, PeopleOf


class GraphHandlers:
    """The handlers of GraphService."""

    def __init__(
        self,
        *,
        follows: ChangeFollows,
        blocks: ChangeBlocks,
        people: ListPeople,
        follower_cursors: ListCursors,
        following_cursors: ListCursors,
    ) -> None:
        self._follows = follows
        self._blocks = blocks
        self._people = people
        self._follower_cursors = follower_cursors
        self._following_cursors = following_cursors

    async def Follow(self, request: pb.FollowRequest, call: Call) -> pb.FollowResponse:
        await self._follows.follow(call.user_id, request.user_id)
        return pb.FollowResponse(relationship=await self._relationship(call, request.user_id))

    async def Unfollow(self, request: pb.UnfollowRequest, call: Call) -> pb.UnfollowResponse:
        await self._follows.unfollow(call.user_id, request.user_id)
        return pb.UnfollowResponse(relationship=await self._relationship(call, request.user_id))

    async def Block(self, request: pb.BlockRequest, call: Call) -> pb.BlockResponse:
        await self._blocks.block(call.user_id, request.user_id)
        return pb.BlockResponse(relationship=await self._relationship(call, request.user_id))

    async def Unblock(self, request: pb.UnblockRequest, call: Call) -> pb.UnblockResponse:
        await self._blocks.unblock(call.user_id, request.user_id)
        return pb.UnblockResponse(relationship=await self._relationship(call, request.user_id))

    async def Mute(self, request: pb.MuteRequest, call: Call) -> pb.MuteResponse:
        await self._blocks.mute(call.user_id, request.user_id)
        return pb.MuteResponse(relationship=await self._relationship(call, request.user_id))

    async def Unmute(self, request: pb.UnmuteRequest, call: Call) -> pb.UnmuteResponse:
        await self._blocks.unmute(call.user_id, request.user_id)
        return pb.UnmuteResponse(relationship=await self._relationship(call, request.user_id))

    async def ListFollowers(self, request: pb.ListFollowersRequest, call: Call) -> pb.ListFollowersResponse:
        before = self._follower_cursors.open(call.user_id, request.user_id, request.cursor)
        users, after = await self._people.page(
            call.user_id, request.user_id, PeopleOf.FOLLOWERS, before=before, limit=page_limit(request.limit)
        )
        cursor = self._follower_cursors.seal(call.user_id, request.user_id, after)
        return pb.ListFollowersResponse(users=map(user_message, users), next_cursor=cursor, has_more=bool(cursor))

    async def ListFollowing(self, request: pb.ListFollowingRequest, call: Call) -> pb.ListFollowingResponse:
        before = self._following_cursors.open(call.user_id, request.user_id, request.cursor)
        users, after = await self._people.page(
            call.user_id, request.user_id, PeopleOf.FOLLOWING, before=before, limit=page_limit(request.limit)
        )
        cursor = self._following_cursors.seal(call.user_id, request.user_id, after)
        return pb.ListFollowingResponse(users=map(user_message, users), next_cursor=cursor, has_more=bool(cursor))

    async def GetRelationship(self, request: pb.GetRelationshipRequest, call: Call) -> pb.GetRelationshipResponse:
        relationship = await self._people.relationship(call.user_id, request.user_id)
        return pb.GetRelationshipResponse(relationship=relationship_message(request.user_id, relationship))

    async def _relationship(self, call: Call, user_id: int) -> graph_pb2.Relationship:
        # After a change the caller may see it, whatever the other side has done since.
        return relationship_message(user_id, await self._people.edges.relationship(call.user_id, user_id))


class UserHandlers:
    """The handlers of UserService."""

    def __init__(self, accounts: KeepAccounts) -> None:
        self._accounts = accounts

    async def CreateUser(
        self, request: user_service_pb2.CreateUserRequest, call: Call
    ) -> user_service_pb2.CreateUserResponse:
        user = await self._accounts.create(request.username, request.avatar_url, request.request_id)
        call.set_header("x-http-status", "201")
        return user_service_pb2.CreateUserResponse(user=user_message(user))

    async def GetUser(self, request: user_service_pb2.GetUserRequest, call: Call) -> user_service_pb2.GetUserResponse:
        user = await self._accounts.get(call.user_id, request.user_id)
        return user_service_pb2.GetUserResponse(user=user_message(user))

    async def UpdateUser(
        self, request: user_service_pb2.UpdateUserRequest, call: Call
    ) -> user_service_pb2.UpdateUserResponse:
        avatar_url = request.avatar_url if request.HasField("avatar_url") else None
        user = await self._accounts.set_avatar(call.user_id, request.user_id, avatar_url)
        return user_service_pb2.UpdateUserResponse(user=user_message(user))
