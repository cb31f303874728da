"""People with the author records of the last minute kept in the process: only for asking whether an author may post."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundation.cards import AuthorCard
from foundation.model.clock import Clock
from foundation.people import ReadThroughPeople
from foundation.viewers import ViewerRecord

KEPT_S = 60.0
CAPACITY = 100_000


class KnownAuthors:
    """post_svc.ports.People; never used for visibility, which reads records in the request."""

    def __init__(self, people: ReadThroughPeople, clock: Clock) -> None:
        self._people = people
        self._clock = clock
        self._known: dict[int, tuple[float, AuthorCard]] = {}

    async def viewer(self, user_id: int) -> ViewerRecord:
        return await self._people.viewer(user_id)

    async def authors(self, user_ids: Sequence[int]) -> Mapping[int, AuthorCard]:
        now = self._clock.monotonic()
        found: dict[int, AuthorCard] = {}
        for user_id in user_ids:
            kept = self._known.get(user_id)
            if kept is not None and kept[0] > now:
                found[user_id] = kept[1]
        missing = [user_id for user_id in user_ids if user_id not in found]
        if missing:
            if len(self._known) > CAPACITY:
                self._known.clear()
            for start in range(0, len(missing), 1_000):
                fresh = await self._people.authors(missing[start : start + 1_000])
                for user_id, author in fresh.items():
                    self._known[user_id] = (now + KEPT_S, author)
                found.update(fresh)
        return found
