"""Where a feed goes on after its anchor, on whatever device. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from feed_svc.model import Mode, Position, SavedPosition, Session


def after_anchor(saved: SavedPosition, sessions: Sequence[Session]) -> Position:
    """The position of the post after the anchor.

    RANKED: in the newest of the kept *sessions* whose head holds the anchor; else in the tail of the newest that
    reaches up to it; else, when its session is gone, newest first below the anchor.
    """
    anchor = saved.anchor_id
    if saved.mode is Mode.LATEST:
        return Position(Mode.LATEST, before_id=anchor)
    for session in sessions:
        if anchor in session.ids:
            slot = session.ids.index(anchor) + 1
            if slot < len(session.ids):
                return Position(Mode.RANKED, session.session_id, slot, session.freeze_id)
            return Position(Mode.RANKED, session.session_id, 0, session.freeze_id, session.freeze_id + 1)
    for session in sessions:
        if anchor <= session.freeze_id:
            return Position(Mode.RANKED, session.session_id, 0, session.freeze_id, anchor)
    return Position(Mode.RANKED, freeze_id=anchor, before_id=anchor)
