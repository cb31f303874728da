"""The plain values of a feed page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foundation.cards import AuthorCard, Card
from foundation.telemetry.journal import Journal
from foundation.timeline.port import CAPACITY, Gap, Timeline
from foundation.viewers import ViewerRecord

HEAD_CAPACITY = 200
"""Most posts in a frozen head."""
WINDOW = 20
"""Slots per window of the arrangement, whatever the page size."""
AUTHOR_CAP = 3
"""Most posts of one author per window."""
OWN_POSTS = 50
"""Most own posts that come with a home: enough for those that are not in the viewer's timeline yet."""
MAX_CANDIDATES = 1_000
"""Most candidates sent to ranking."""
FEED_DEPTH_MS = 7 * 86_400_000
"""How far back a feed goes."""
Seen = npt.NDArray[np.int64]
"""Ids of posts that a viewer has seen, ascending, maybe some twice."""
NOTHING_SEEN: Seen = np.empty(0, np.int64)
"""Also what is known when the marks are lost: they only change an order."""


class Mode(IntEnum):
    """Order of a feed; the numbers are those of feedmesh.feed.v1.FeedMode."""

    RANKED = 1
    LATEST = 2


class Kind(IntEnum):
    """Where a candidate came from; the numbers are those of RankCandidatesRequest.sources."""

    PUSHED = 0
    OWN = 1
    PULLED = 2
    RECOMMENDED = 3


class Degraded(IntEnum):
    """Why an answer is less than perfect; the numbers are those of feedmesh.feed.v1.DegradedReason."""

    RANK_FALLBACK = 1
    FEED_PARTIAL = 2
    CACHE_UNAVAILABLE = 3
    POSTS_UNAVAILABLE = 4
    SESSION_UNAVAILABLE = 5
    FEATURES_UNAVAILABLE = 6
    RECOMMENDATIONS_UNAVAILABLE = 7


@dataclass(slots=True, frozen=True)
class Position:
    """Where the next page begins: what a cursor holds."""

    mode: Mode
    session_id: int = 0
    """RANKED: the frozen head; 0 when it could not be frozen."""
    slot: int = 0
    """RANKED, in the head: the next slot."""
    freeze_id: int = 0
    """RANKED: the greatest id that this feed may show."""
    before_id: int = 0
    """LATEST and the tail: only ids below; 0 while in the head."""

    @property
    def in_head(self) -> bool:
        """True if what follows begins in a frozen head."""
        return self.session_id != 0 and self.before_id == 0


@dataclass(slots=True, frozen=True)
class SavedPosition:
    """Where a user was, on whatever device."""

    mode: Mode
    anchor_id: int
    """The last post on the screen."""
    saved_ms: int
    """When, ms since 1970."""


@dataclass(slots=True, frozen=True)
class FeedQuery:
    """One page, please."""

    viewer_id: int
    limit: int
    mode: Mode
    position: Position | None
    """None for a first page."""

    @property
    def opens_head(self) -> bool:
        """True if the page begins a new head."""
        return self.mode is Mode.RANKED and self.position is None

    @property
    def depth(self) -> int:
        """How many ids of the list it is made of; where more are hidden than expected it reads authors' posts."""
        if self.mode is Mode.LATEST and self.position is None:
            return min(CAPACITY, 3 * self.limit)
        return CAPACITY


@dataclass(slots=True, frozen=True)
class Session:
    """A frozen head."""

    session_id: int
    freeze_id: int
    """The greatest id when it was frozen."""
    ids: Sequence[int]
    """At most HEAD_CAPACITY, in the order shown."""
    recommended: frozenset[int] = frozenset()
    """Those of `ids` that are in it without being followed."""
    author_ids: Sequence[int] = ()
    """Of the post at the same place, 0 where unknown; empty where none is known."""


@dataclass(slots=True, frozen=True)
class Recommended:
    """What a job found for a viewer, best first."""

    ids: Sequence[int]
    made_ms: int
    """When, ms since 1970."""


@dataclass(slots=True, frozen=True)
class Home:
    """What one call to the viewer's node brings."""

    viewer: ViewerRecord | None
    """None: a miss."""
    timeline: Timeline | None
    """At most as many of its newest ids as were asked for, the first that was not read being the floor. None: cold."""
    own: Timeline | None
    """The viewer's own newest posts, at most OWN_POSTS; None: cold."""
    seen: Seen = field(default_factory=lambda: NOTHING_SEEN)
    recommended: Recommended | None = None
    """None: not asked for, there are none, or they could not be read."""


@dataclass(slots=True, frozen=True)
class Stretch:
    """A part of a feed in the order of ids, from a bound down."""

    ids: Sequence[int]
    """Strictly descending: every post of the feed between `floor` and the bound."""
    floor: int
    missing: bool = False
    """Some author could not be read: what they wrote is not in it."""
    loose: Sequence[int] = ()
    """Then, ids below `floor` of those that could."""


class GapsAbove(NamedTuple):
    """What may be missing in a list."""

    gaps: Sequence[Gap]
    """Newest first."""
    state: int
    """Another one as soon as more was left to readers."""


NO_GAPS = GapsAbove((), 0)


@dataclass(slots=True, frozen=True)
class Found:
    """What one source found."""

    ids: Sequence[int]
    whole: bool
    """False when some of it could not be read."""


def merged(ids: Sequence[int], others: Collection[int]) -> list[int]:
    """Descending *ids* and *others*, none of which is among them, descending."""
    return sorted((*ids, *sorted(others, reverse=True)), reverse=True)  # two runs are merged, not sorted


@dataclass(slots=True, frozen=True)
class Candidates:
    """What a head may be made of."""

    ids: Sequence[int]
    """Strictly descending: of whom the viewer follows, and their own."""
    reasons: frozenset[Degraded]
    recommended: frozenset[int] = frozenset()
    """None of `ids`; with them at most MAX_CANDIDATES. An author may have been followed since they were found."""

    def together(self) -> Sequence[int]:
        """Both, strictly descending."""
        if not self.recommended:
            return self.ids
        return merged(self.ids, self.recommended)


@dataclass(slots=True, frozen=True)
class Records:
    """What posts are shown, or hidden, by."""

    cards: Mapping[int, Card]
    authors: Mapping[int, AuthorCard]
    whole: bool = True
    """False when an owner did not answer: what is not here may exist all the same."""


@dataclass(slots=True)
class Slate:
    """Posts that passed, and how far the walk came."""

    posts: list[bytes]
    """Encoded feedmesh.post.v1.Post."""
    examined: int = 0
    """Ids consumed from the order."""
    foreign: int = 0
    """Of these, hidden because the viewer no longer follows the author: what a rebuild would drop."""
    gone: int = 0
    """Of these, those whose record or author was not to be had."""
    reasons: set[Degraded] = field(default_factory=set)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Ids that did not become posts, by reason."""
        lost = self.examined - len(self.posts)
        if not lost:
            return {}
        counts = {"gone": self.gone, "unfollowed": self.foreign, "hidden": lost - self.gone - self.foreign}
        return {reason: count for reason, count in counts.items() if count}

    def followed_by(self, other: Slate) -> Slate:
        """Both, as one."""
        return Slate(
            [*self.posts, *other.posts],
            self.examined + other.examined,
            self.foreign + other.foreign,
            self.gone + other.gone,
            self.reasons | other.reasons,
        )


@dataclass(slots=True, frozen=True)
class Walked:
    """What a walk down a feed brought."""

    slate: Slate
    next_id: int
    """Where the next page begins, exclusive; 0 at the end."""
    newest_id: int
    """The first id that was looked at; 0 for none."""


@dataclass(slots=True, frozen=True)
class FeedPage:
    """One page, as the edge encodes it."""

    posts: Sequence[bytes]
    """Encoded feedmesh.post.v1.Post, in order."""
    next: Position | None
    """None at the end."""
    session_id: int
    """0 in LATEST."""
    reasons: frozenset[Degraded]
    cache_hit: bool
    newest_id: int = 0
    """First pages: the newest post that this feed may show; 0 for none, and on later pages."""
    journal: Journal | None = None
    """The stages it went through."""


@dataclass(slots=True, frozen=True)
class Refreshed:
    """What a refresh found."""

    new_posts: int
    """Visible posts above the id that was asked for; newer.COUNTED stands for that many or more."""
    page: FeedPage


@dataclass(slots=True, frozen=True)
class News:
    """What a watcher is told."""

    new_posts: int
    """As in Refreshed."""
    newest_id: int
    """0 where there is no post."""
    reasons: frozenset[Degraded]
    """Why the number may be too small."""
    cache_hit: bool
    pulled: AbstractSet[int]
    """Followed authors whose posts may not be in the viewer's timeline."""


@dataclass(slots=True, frozen=True)
class HeadMark:
    """The start of a list: when it is the same, nothing came, be it above or below the head."""

    newest_id: int
    """0: cold."""
    length: int


@dataclass(slots=True, frozen=True)
class HeadMarks:
    """Marks of lists by owner; a node that was silent has none."""

    feeds: Mapping[int, HeadMark]
    authors: Mapping[int, HeadMark]


@dataclass(slots=True, frozen=True)
class Ranked:
    """Candidates best first."""

    ids: Sequence[int]
    author_ids: Sequence[int]
    """Author of the id at the same place; 0 where unknown."""
    features_whole: bool = True
    """False when some were ranked without features that the store may have."""


@dataclass(slots=True, frozen=True)
class Scores:
    """How one candidate fared in ranking."""

    quick_score: float
    quick_place: int
    """From 1."""
    model_score: float
    model_place: int
    """From 1; 0 where stage 1 left it out."""
    model_version: str
    features: Sequence[tuple[str, float]]


class Place(IntEnum):
    """Where a post stands; the numbers are those of feedmesh.feed.v1.FeedItemPlace."""

    HEAD = 1
    TAIL = 2
    NOT_IN_FEED = 3


@dataclass(slots=True, frozen=True)
class Explanation:
    """Why one post is where it is in a feed that was made now."""

    post_id: int
    kind: Kind | None
    """None for a post of nobody whom the viewer follows."""
    place: Place
    slot: int
    """In the head, from 1; 0 outside of it."""
    decision: str
    """In words: shown or hidden, and why."""
    visible: bool
    scores: Scores | None
    """None where ranking did not answer."""
    journal: Journal
