"""Heads that stand: frozen with the first page, read again, with the viewer's record, by later ones (rule 7)."""

from __future__ import annotations

from dataclasses import dataclass

from feed_svc.flows.open_home import FEED_UNAVAILABLE, OpenHome
from feed_svc.model import Session
from feed_svc.ports import Sessions
from foundation.errors import InvalidArgument, Unavailable
from foundation.telemetry.journal import Journal
from foundation.viewers import ViewerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenHeads:
    """The sessions of a viewer's feeds."""

    open_home: OpenHome
    sessions: Sessions

    async def freeze(self, viewer_id: int, session: Session, journal: Journal) -> bool:
        """Whether later pages will find it."""
        with journal.stage("freeze") as stage:
            try:
                await self.sessions.save(viewer_id, session)
            except Unavailable:
                return False
            stage.count = len(session.ids)
            return True

    async def resume(self, viewer_id: int, session_id: int, journal: Journal) -> tuple[ViewerRecord, Session]:
        """Raises InvalidArgument(CURSOR_EXPIRED) where it is gone, Unavailable where that is not known."""
        with journal.stage("session") as stage:
            try:
                viewer, session = await self.open_home.resume(viewer_id)
                if session is None or session.session_id != session_id:
                    # Not the newest: a feed that was begun before another one, on another device.
                    session = await self.sessions.load(viewer_id, session_id)
            except Unavailable as failure:
                if failure.reason == FEED_UNAVAILABLE:
                    raise
                # Another order would repeat posts and leave out others.
                raise Unavailable("CACHE_UNAVAILABLE", "this feed session cannot be read now") from failure
            stage.count = len(session.ids) if session else 0
        if session is None:
            raise InvalidArgument("CURSOR_EXPIRED", "this feed session is gone: ask again without a cursor")
        return viewer, session
