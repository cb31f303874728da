"""GraphInternalService: what other services ask of the graph."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import numpy as np
from feedmesh.graph.v1 import graph_internal_service_pb2 as pb

from foundation.rpc.server import Call
from graph_svc.edge.wire import packed_pairs
from graph_svc.flows.change_follows import ChangeFollows
from graph_svc.flows.keep_accounts import KeepAccounts
from graph_svc.ports import Edges, ReadModels, Users


class GraphInternalHandlers:
    """The handlers of GraphInternalService. Reads go straight to the ports: there is nothing to decide."""

    def __init__(
        self, *, edges: Edges, users: Users, read_models: ReadModels, accounts: KeepAccounts, follows: ChangeFollows
    ) -> None:
        self._edges = edges
        self._users = users
        self._read_models = read_models
        self._accounts = accounts
        self._follows = follows

    async def StreamFollowers(
        self, request: pb.StreamFollowersRequest, _: Call
    ) -> AsyncIterator[pb.StreamFollowersResponse]:
        async for user_id, page in self._edges.follower_pages(list(request.user_ids)):
            yield pb.StreamFollowersResponse(user_id=user_id, follower_ids=_packed(page))

    async def GetViewerGraph(self, request: pb.GetViewerGraphRequest, _: Call) -> pb.GetViewerGraphResponse:
        return pb.GetViewerGraphResponse(viewers=await self._read_models.fill_viewers(list(request.user_ids)))

    async def BatchGetAuthors(self, request: pb.BatchGetAuthorsRequest, _: Call) -> pb.BatchGetAuthorsResponse:
        return pb.BatchGetAuthorsResponse(authors=await self._read_models.fill_authors(list(request.user_ids)))

    async def ResolveUsernames(self, request: pb.ResolveUsernamesRequest, _: Call) -> pb.ResolveUsernamesResponse:
        found = await self._users.resolve(list(request.usernames))
        return pb.ResolveUsernamesResponse(user_ids=[found.get(name, 0) for name in request.usernames])

    async def ImportUsers(self, request: pb.ImportUsersRequest, _: Call) -> pb.ImportUsersResponse:
        return pb.ImportUsersResponse(user_ids=await self._accounts.import_users(list(request.usernames)))

    async def ImportFollows(self, request: pb.ImportFollowsRequest, _: Call) -> pb.ImportFollowsResponse:
        pairs = packed_pairs(request.follower_ids, request.followee_ids)
        return pb.ImportFollowsResponse(created=await self._follows.import_follows(pairs))


def _packed(ids: Sequence[int]) -> bytes:
    return np.array(ids, dtype="<i8").tobytes()
