"""Development tokens for users of a running mesh."""

from __future__ import annotations

from dataclasses import dataclass

from feedmesh.graph.v1 import graph_internal_service_pb2 as pb
from feedmesh.graph.v1 import graph_internal_service_pb2_grpc as rpc

from feedmesh_cli.failures import CliError, ExitCode
from feedmesh_cli.mesh_file import Mesh
from foundation.errors import DomainError
from foundation.model.clock import SystemClock
from foundation.rpc.channels import internal_channel
from foundation.rpc.tokens import DevIssuer

CALL_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class UserToken:
    """A token and whose it is. The id is text, as in every JSON of the mesh."""

    token: str
    user_id: str


async def token_for(mesh: Mesh, username: str) -> UserToken:
    """A token of *username*, valid for a day. Raises CliError when there is no such user."""
    async with internal_channel(mesh.services["graph_svc"], mesh.internal_key) as channel:
        stub = rpc.GraphInternalServiceStub(channel.grpc)
        try:
            answer = await channel.call(
                stub.ResolveUsernames, pb.ResolveUsernamesRequest(usernames=[username]), CALL_TIMEOUT_S
            )
        except DomainError as failure:
            raise CliError(
                f"graph_svc did not look the name up: {failure.reason}",
                where=mesh.services["graph_svc"],
                next_step="feedmesh status",
                code=ExitCode.UNHEALTHY,
            ) from failure
    user_id = answer.user_ids[0]
    if user_id == 0:
        body = f'{{"username": "{username}"}}'
        raise CliError(
            f"there is no user {username!r}",
            where=f"the mesh at {mesh.edge}",
            cause="the name is misspelt, or the user was not created yet",
            next_step=f"feedmesh call feedmesh.graph.v1.UserService/CreateUser '{body}'",
        )
    issuer = DevIssuer.load_or_create(mesh.directory / "keys")
    return UserToken(issuer.mint(user_id, username, now_s=SystemClock().now_ms() // 1000), str(user_id))
