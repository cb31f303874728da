"""Block, unblock, mute and unmute: the durable row, then both viewers' records, then the answer (rule 6)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from foundation.errors import InvalidArgument, NotFound
from foundation.model.ids import Ids
from foundation.visibility import UserState
from graph_svc.ports import Edges, Outbox, ReadModels, Users


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeBlocks:
    """Idempotent; an answer means that every reader was told, so UNAVAILABLE is to be retried."""

    users: Users
    edges: Edges
    read_models: ReadModels
    outbox: Outbox
    ids: Ids

    async def block(self, blocker_id: int, blocked_id: int) -> None:
        """Hide each from the other and end their follows. Raises InvalidArgument(SELF_EDGE), NotFound, Unavailable."""
        await self._check(blocker_id, blocked_id)
        change_ids = (self.ids.next(), self.ids.next(), self.ids.next())
        with ExitStack() as writing:
            for change_id in change_ids:
                writing.enter_context(self.outbox.writing(change_id))
            published = await self.edges.block(blocker_id, blocked_id, change_ids=change_ids)
        events = {item.change_id: item.events for item in published}
        for change_id in change_ids:
            self.outbox.publish(change_id, events.get(change_id, ()))
        await self.read_models.tell_viewers([blocker_id, blocked_id])

    async def unblock(self, blocker_id: int, blocked_id: int) -> None:
        """Lift a block; follows are not restored. Raises as block."""
        await self._check(blocker_id, blocked_id)
        change_id = self.ids.next()
        with self.outbox.writing(change_id):
            published = await self.edges.unblock(blocker_id, blocked_id, change_id=change_id)
        self.outbox.publish(change_id, [event for item in published for event in item.events])
        await self.read_models.tell_viewers([blocker_id, blocked_id])

    async def mute(self, muter_id: int, muted_id: int) -> None:
        """Keep somebody's posts out of one's feed. Raises as block."""
        await self._check(muter_id, muted_id)
        await self.edges.mute(muter_id, muted_id)
        await self.read_models.tell_viewers([muter_id])

    async def unmute(self, muter_id: int, muted_id: int) -> None:
        """Let them in again. Raises as block."""
        await self._check(muter_id, muted_id)
        await self.edges.unmute(muter_id, muted_id)
        await self.read_models.tell_viewers([muter_id])

    async def _check(self, one_id: int, other_id: int) -> None:
        if one_id == other_id:
            raise InvalidArgument("SELF_EDGE", "nobody blocks or mutes themselves")
        found = await self.users.get([one_id, other_id])
        for user_id in (one_id, other_id):
            if user_id not in found or found[user_id].state is UserState.DELETED:
                raise NotFound("USER_NOT_FOUND", "no such user", user_id=user_id)
