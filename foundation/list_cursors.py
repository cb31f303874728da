"""Cursors of plain lists: a place in one list of one owner, sealed for one caller and method."""

from __future__ import annotations

from feedmesh.internal.v1.cursors_pb2 import ListCursor

from foundation.errors import InvalidArgument
from foundation.model.clock import DAY_MS, Clock
from foundation.seal import Sealer

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


def page_limit(asked: int) -> int:
    """Entries of a page: 0 means DEFAULT_LIMIT, above MAX_LIMIT means MAX_LIMIT."""
    return min(asked or DEFAULT_LIMIT, MAX_LIMIT)


class ListCursors:
    """Seals and opens the cursors of one method."""

    def __init__(self, sealer: Sealer, clock: Clock, method: str) -> None:
        self._sealer = sealer
        self._clock = clock
        self._method = method

    def seal(self, caller_id: int, owner_id: int, before: int) -> str:
        """The cursor of a place; empty for 0."""
        if not before:
            return ""
        plain = ListCursor(before_id=before, owner_id=owner_id, issued_at_ms=self._clock.now_ms())
        return self._sealer.seal(plain.SerializeToString(), self._bound_to(caller_id, owner_id))

    def open(self, caller_id: int, owner_id: int, text: str) -> int:
        """The place in *text*; 0 for no cursor. Raises InvalidArgument (CURSOR_INVALID, CURSOR_EXPIRED)."""
        if not text:
            return 0
        plain = ListCursor.FromString(self._sealer.open(text, self._bound_to(caller_id, owner_id)))
        if self._clock.now_ms() - plain.issued_at_ms > DAY_MS:
            raise InvalidArgument("CURSOR_EXPIRED", "the cursor is older than a day: ask again without one")
        return plain.before_id

    def _bound_to(self, caller_id: int, owner_id: int) -> bytes:
        return f"{caller_id}|{owner_id}|{self._method}|list-1".encode()
