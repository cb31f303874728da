"""Cursors: a position in a feed, sealed for one user and this method. Opaque to callers; expires after a day."""

from __future__ import annotations

from feedmesh.internal.v1 import cursors_pb2 as pb

from feed_svc.model import Mode, Position
from foundation.errors import InvalidArgument
from foundation.model.clock import DAY_MS, Clock
from foundation.seal import Sealer

_VERSION = b"feed-1"


class FeedCursors:
    """Seals and opens cursors of GetFeed."""

    def __init__(self, sealer: Sealer, clock: Clock) -> None:
        self._sealer = sealer
        self._clock = clock

    def seal(self, viewer_id: int, position: Position | None) -> str:
        """The cursor of *position*; empty for None."""
        if position is None:
            return ""
        plain = pb.FeedCursor(
            mode=position.mode,
            issued_at_ms=self._clock.now_ms(),
            session_id=position.session_id,
            slot=position.slot,
            freeze_id=position.freeze_id,
            before_id=position.before_id,
        )
        return self._sealer.seal(plain.SerializeToString(), _bound_to(viewer_id))

    def open(self, viewer_id: int, text: str) -> Position | None:
        """The position in *text*; None for no cursor. Raises InvalidArgument (CURSOR_INVALID, CURSOR_EXPIRED)."""
        if not text:
            return None
        plain = pb.FeedCursor.FromString(self._sealer.open(text, _bound_to(viewer_id)))
        if self._clock.now_ms() - plain.issued_at_ms > DAY_MS:
            raise InvalidArgument("CURSOR_EXPIRED", "the cursor is older than a day: ask again without one")
        return Position(Mode(plain.mode), plain.session_id, plain.slot, plain.freeze_id, plain.before_id)


def _bound_to(viewer_id: int) -> bytes:
    return b"%d|GetFeed|%s" % (viewer_id, _VERSION)
