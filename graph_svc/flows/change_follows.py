"""Follow and unfollow: one durable write with its event, then the viewer record, then the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from foundation.errors import FailedPrecondition, InvalidArgument, NotFound
from foundation.model.ids import Ids
from graph_svc.model import FollowChange, FollowOutcome, FollowResult
from graph_svc.ports import Edges, Outbox, ReadModels

Write = Callable[[Sequence[FollowChange]], Awaitable[FollowResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFollows:
    """Many follows at once or one; repeating any changes nothing and tells the readers again."""

    edges: Edges
    read_models: ReadModels
    outbox: Outbox
    ids: Ids
    limit: int

    async def follow(self, follower_id: int, followee_id: int) -> None:
        """Raises InvalidArgument(SELF_EDGE), NotFound(USER_NOT_FOUND), FailedPrecondition(BLOCKED, FOLLOW_LIMIT)."""
        result = await self._change([(follower_id, followee_id)], self._follow)
        _raise_for(result.outcomes[0], followee_id, self.limit)
        await self.read_models.tell_viewers([follower_id])

    async def unfollow(self, follower_id: int, followee_id: int) -> None:
        """Raises InvalidArgument(SELF_EDGE), NotFound(USER_NOT_FOUND)."""
        result = await self._change([(follower_id, followee_id)], self.edges.unfollow)
        _raise_for(result.outcomes[0], followee_id, self.limit)
        await self.read_models.tell_viewers([follower_id])

    async def import_follows(self, pairs: Sequence[tuple[int, int]]) -> int:
        """Make those of *pairs* that can be made; how many are new. On return they are in the log."""
        result = await self._change([pair for pair in pairs if pair[0] != pair[1]], self._follow)
        changed = result.outcomes.count(FollowOutcome.CHANGED)
        await self.read_models.forget_viewers(sorted({follower_id for follower_id, _ in pairs}))
        await self.outbox.flush()
        return changed

    async def _follow(self, changes: Sequence[FollowChange]) -> FollowResult:
        return await self.edges.follow(changes, limit=self.limit)

    async def _change(self, pairs: Sequence[tuple[int, int]], write: Write) -> FollowResult:
        for follower_id, followee_id in pairs:
            if follower_id == followee_id:
                raise InvalidArgument("SELF_EDGE", "nobody is their own follower")
        changes = [FollowChange(self.ids.next(), follower_id, followee_id) for follower_id, followee_id in pairs]
        with ExitStack() as writing:
            for change in changes:
                writing.enter_context(self.outbox.writing(change.change_id))
            result = await write(changes)
        published = {item.change_id: item.events for item in result.published}
        for change in changes:
            self.outbox.publish(change.change_id, published.get(change.change_id, ()))
        return result


def _raise_for(outcome: FollowOutcome, followee_id: int, limit: int) -> None:
    match outcome:
        case FollowOutcome.NO_SUCH_USER | FollowOutcome.BLOCKED_BY_THEM:
            raise NotFound("USER_NOT_FOUND", "no such user", user_id=followee_id)
        case FollowOutcome.BLOCKING_THEM:
            raise FailedPrecondition("BLOCKED", "you block this user: unblock them first", user_id=followee_id)
        case FollowOutcome.LIMIT_REACHED:
            raise FailedPrecondition("FOLLOW_LIMIT", f"at most {limit} accounts can be followed", limit=limit)
        case _:
            return
