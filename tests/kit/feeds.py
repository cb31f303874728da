"""A small world of authors behind the ports that walks down feeds need, as plain dicts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from feed_svc.adapters.author_posts import part_below
from feed_svc.flows.open_home import OpenedHome
from feed_svc.model import Records
from foundation.cards import AuthorCard, Card
from foundation.model.clock import Millis
from foundation.model.tiers import Tier
from foundation.timeline.port import Timeline
from foundation.viewers import ViewerRecord
from foundation.visibility import AuthorFacts, PostState, UserState

ANA = 1
OLDEST = 100


@dataclass
class World:
    """Who wrote what, as plain dicts, behind both ports that a walk needs."""

    posts: Mapping[int, Sequence[int]]
    silent: Collection[int] = ()
    hidden: Collection[int] = ()
    author_of: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.author_of = {post: author for author, mine in self.posts.items() for post in mine}

    async def below(
        self,
        author_ids: Sequence[int],
        *,
        before_id: int,
        after_id: int,
        limit: int,
        hot: Collection[int] = (),
    ) -> Mapping[int, Timeline]:
        return {
            author: part_below(
                Timeline(
                    sorted((post for post in self.posts.get(author, ()) if post > after_id), reverse=True), after_id
                ),
                before_id=before_id,
                limit=limit,
            )
            for author in author_ids
            if author not in self.silent
        }

    async def fetch(self, post_ids: Sequence[int], author_ids: Sequence[int] = ()) -> Records:
        states = {post: PostState.DELETED if post in self.hidden else PostState.ACTIVE for post in post_ids}
        cards = {post: Card(self.author_of[post], states[post], 1, b"%d:" % post) for post in post_ids}
        facts = {author: AuthorFacts(author, UserState.ACTIVE, is_private=False) for author in self.posts}
        authors = {author: AuthorCard(known, 1, Tier.PUSH, 0, b"") for author, known in facts.items()}
        return Records(cards, authors)

    async def authors_of(self, post_ids: Sequence[int]) -> Sequence[int]:
        return [self.author_of[post] for post in post_ids]

    def home(self, floor: int, pulled: Collection[int], pushed_all_the_same: Collection[int] = ()) -> OpenedHome:
        """As a list with that floor would show it: nobody pulled is in it, but for some who were pushed before."""
        follows = frozenset(self.posts) - {ANA}
        viewer = ViewerRecord(
            1, UserState.ACTIVE, follows, frozenset(), frozenset(), frozenset(pulled), frozenset([*pulled][:1])
        )
        listed = [
            post
            for post, author in self.author_of.items()
            if post > max(floor, OLDEST) and (author not in pulled or post in pushed_all_the_same)
        ]
        return OpenedHome(viewer, sorted(listed, reverse=True), floor, OLDEST, True, frozenset())


def ids_of(posts: Sequence[bytes]) -> list[int]:
    return [int(post.split(b":")[0]) for post in posts]


class StoppedClock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now_ms(self) -> Millis:
        return Millis(int(self.seconds * 1_000))

    def monotonic(self) -> float:
        return self.seconds
