"""Makes up a world: communities with interests, a power law of followers, a celebrity. One seed is one world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from feedmesh_cli.edge_list import EdgeList

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAMES = (
    "ana", "bo", "cy", "dee", "eli", "fay", "gus", "hana", "ivo", "jun", "kai", "lea", "mio", "nils", "ola", "pia",
    "quinn", "rui", "sol", "tess", "uma", "vito", "wren", "xenia", "yara", "zoe", "amir", "bea", "caro", "dima",
    "ezra", "finn", "gita", "hugo", "ines", "joao", "kemi", "luca", "maya", "noor", "otto", "paz", "ravi", "sana",
    "theo", "ulla", "vera", "wim", "yuki", "zain",
)  # fmt: skip
"""The first is the celebrity."""

INTERESTS = (
    ("coffee", "the third cup of the day", "a roast that smells of plums", "latte art, attempt forty"),
    ("hiking", "above the clouds by seven", "wet boots, good view", "the long way round the lake"),
    ("film", "thirty-six frames left", "light leak or mood, you decide", "an old lens on a new street"),
    ("baking", "the crust sang", "sourdough with a grudge", "cardamom everywhere"),
    ("cycling", "headwind both ways", "the climb before breakfast", "new tape, new bike"),
    ("pottery", "glaze day", "the kiln decides", "a bowl that leans a little"),
    ("birds", "a kingfisher at last", "heron, unimpressed", "dawn chorus, no coffee"),
    ("gardens", "first tomato", "the slugs won this round", "seed swap on sunday"),
)
"""A hashtag and captions for each community in turn."""

MEAN_FOLLOWS = 18
WITHIN_COMMUNITY = 0.7
"""Share of follows that stay in one's own community."""
CELEBRITY_SHARE = 0.6
"""Share of everyone who follows the celebrity."""


@dataclass(frozen=True, slots=True)
class MadeUpPost:
    """A post before it has an id."""

    author: int
    """Index into World.usernames."""
    caption: str
    hashtags: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """Users, follows and posts by index."""

    usernames: list[str]
    follows: NDArray[np.int64]
    """Rows of (follower, followee), each pair once."""
    posts: list[MadeUpPost]
    """In the order they are to be written."""


def make_world(users: int, *, seed: int) -> World:
    """A world of *users* people, at least 2; 2-5 posts each."""
    import numpy as np

    if users < 2:
        raise ValueError(f"a world needs 2 users or more, not {users}")
    chance = np.random.default_rng(seed)
    communities = max(2, min(len(INTERESTS), users // 6)) if users >= 12 else 1
    community = np.arange(users) % communities
    popularity: NDArray[np.float64] = np.arange(1, users + 1, dtype=np.float64) ** -0.8
    usernames = [NAMES[i % len(NAMES)] + (str(i // len(NAMES)) if i >= len(NAMES) else "") for i in range(users)]
    follows = _follows(users, community, popularity, chance)
    posts = _posts(users, community, chance)
    return World(usernames=usernames, follows=follows, posts=posts)


def as_world(graph: EdgeList, *, posts_per_user: int) -> World:
    """The people of an edge list, each with *posts_per_user* posts, written in turns."""
    import numpy as np

    place = {node: index for index, node in enumerate(graph.nodes)}
    follows = np.array([(place[a], place[b]) for a, b in graph.follows], dtype=np.int64).reshape(-1, 2)
    posts = [
        MadeUpPost(author, f"post {number} of {name}")
        for number in range(1, posts_per_user + 1)
        for author, name in enumerate(graph.usernames)
    ]
    return World(usernames=graph.usernames, follows=follows, posts=posts)


def _follows(
    users: int, community: NDArray[np.int64], popularity: NDArray[np.float64], chance: np.random.Generator
) -> NDArray[np.int64]:
    import numpy as np

    mean = min(MEAN_FOLLOWS, max(1, users // 3))
    wanted = np.minimum(chance.lognormal(np.log(mean), 0.5, users).astype(np.int64) + 1, users - 1)
    followers = np.repeat(np.arange(users), wanted)
    followees = _by_popularity(popularity, len(followers), chance)
    stays = chance.random(len(followers)) < WITHIN_COMMUNITY
    for one in range(int(community.max()) + 1):
        members = np.flatnonzero(community == one)
        here = np.flatnonzero(stays & (community[followers] == one))
        followees[here] = members[_by_popularity(popularity[members], len(here), chance)]
    fans = np.flatnonzero(chance.random(users) < CELEBRITY_SHARE)
    # A ring keeps anyone from following nobody or having no followers.
    ring = np.arange(users)
    pairs = np.concatenate(
        [
            np.column_stack([followers, followees]),
            np.column_stack([fans, np.zeros(len(fans), dtype=np.int64)]),
            np.column_stack([ring, (ring + 1) % users]),
        ]
    )
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def _by_popularity(weights: NDArray[np.float64], count: int, chance: np.random.Generator) -> NDArray[np.int64]:
    import numpy as np

    cumulative = np.cumsum(weights)
    drawn: NDArray[np.int64] = np.searchsorted(cumulative, chance.random(count) * cumulative[-1], side="right")
    np.minimum(drawn, len(weights) - 1, out=drawn)
    return drawn


def _posts(users: int, community: NDArray[np.int64], chance: np.random.Generator) -> list[MadeUpPost]:
    import numpy as np

    authors = np.repeat(np.arange(users), chance.integers(2, 6, users))
    chance.shuffle(authors)
    lines = chance.integers(1, len(INTERESTS[0]), len(authors))
    posts = []
    for author, line in zip(authors.tolist(), lines.tolist(), strict=True):
        interest = INTERESTS[int(community[author]) % len(INTERESTS)]
        posts.append(MadeUpPost(author, interest[line], (interest[0],)))
    return posts
