"""A world written into the SQL stores beneath the services, in bulk: what two million calls would leave there.

Nothing may run on the databases meanwhile. Every row is as the services write it, except that its event counts as
published long ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Table, func, insert, select, update

from feedmesh_cli.loading import Progress
from feedmesh_cli.world import World
from foundation.model.ids import id_at
from foundation.model.tiers import Tier
from foundation.sql.database import open_database
from foundation.visibility import EdgeState, PostState, UserState
from graph_svc.adapters.tables import FOLLOWER_BUCKETS, FOLLOWERS, FOLLOWING, GRAPH_TABLES, USERS
from graph_svc.model import BUCKET_CAPACITY
from post_svc.adapters.tables import POST_TABLES, POSTS

Ids = NDArray[np.int64]

ROWS_AT_ONCE = 50_000
WRITE_TIMEOUT_S = 300.0
POPULARITY = -0.8
"""Exponent of the power law of followers; `feedmesh seed world` makes up the same."""
USERS_MADE_BEFORE_MS = 10**10
FOLLOWS_MADE_BEFORE_MS = 10**9
POSTS_WITHIN_MS = 5 * 86_400_000
"""Below the 7 days that feeds reach."""
PUBLISHED = (0, 0, "", 0, b"")
"""The event columns of a row whose event is not to be swept: its slot is none that is open."""


@dataclass(frozen=True, kw_only=True)
class StoredWorld:
    """Who exists, who follows whom, who wrote what."""

    users: Ids
    """Ascending."""
    followers: Ids
    followees: Ids
    """Pairs with `followers`, as indexes into `users`, in the order of follower and followee."""
    authors: Ids
    """Of each post, an index into `users`."""
    posts: Ids
    """Ids."""

    def follower_counts(self) -> Ids:
        """How many follow each user."""
        return np.bincount(self.followees, minlength=len(self.users))


def power_law(users: int, follows: int, *, seed: int, now_ms: int, posts_of_each: int) -> StoredWorld:
    """Everyone follows *follows* others, chosen by a power law; everyone wrote *posts_of_each* posts."""
    chance = np.random.default_rng(seed)
    weights = np.cumsum(np.arange(1, users + 1, dtype=np.float64) ** POPULARITY)
    codes = np.empty(0, dtype=np.int64)
    missing = np.full(users, min(follows, users - 1))
    while missing.any():
        followers = np.repeat(np.arange(users), missing)
        followees = np.searchsorted(weights, chance.random(len(followers)) * weights[-1], side="right")
        fresh = followers * users + np.minimum(followees, users - 1)
        codes = np.unique(np.concatenate([codes, fresh[followers != followees]]))
        missing = min(follows, users - 1) - np.bincount(codes // users, minlength=users)
    return stored_world(users, codes // users, codes % users, chance=chance, now_ms=now_ms, posts_of_each=posts_of_each)


def stored_world(
    users: int, followers: Ids, followees: Ids, *, chance: np.random.Generator, now_ms: int, posts_of_each: int
) -> StoredWorld:
    """The world of these pairs, whose users wrote *posts_of_each* posts each, at any time of the last days."""
    count = users * posts_of_each
    ages = chance.integers(60_000, POSTS_WITHIN_MS, count)
    return StoredWorld(
        users=id_at(now_ms - USERS_MADE_BEFORE_MS) + np.arange(users, dtype=np.int64) * 2**22,
        followers=followers,
        followees=followees,
        authors=np.arange(count, dtype=np.int64) % users,
        # The place makes them unique: two may be of one millisecond.
        posts=id_at(now_ms) - ages * 2**22 + np.arange(count, dtype=np.int64),
    )


def stored_graph(world: World, *, now_ms: int) -> StoredWorld:
    """The users and follows of *world*, in its order of users; nobody has written anything."""
    followers, followees = np.unique(world.follows, axis=0).T
    chance = np.random.default_rng(0)
    return stored_world(len(world.usernames), followers, followees, chance=chance, now_ms=now_ms, posts_of_each=0)


def bucket_places(followees: Ids) -> Ids:
    """Of each follow, how many of the same followee's come before it."""
    order = np.argsort(followees, kind="stable")
    grouped = followees[order]
    starts = np.flatnonzero(np.diff(grouped, prepend=-1))
    places = np.empty(len(followees), dtype=np.int64)
    places[order] = np.arange(len(followees)) - np.repeat(starts, np.diff(starts, append=len(followees)))
    return places


async def store_graph(url: str, world: StoredWorld, bar: Progress, *, now_ms: int) -> None:
    """Users, follows in both directions and counts; everyone is of tier PUSH."""
    follows_of = np.bincount(world.followers, minlength=len(world.users)).tolist()
    users = (
        (user_id, f"p{place}", "", False, False, UserState.ACTIVE, 1, 1, follows, Tier.PUSH, 0)
        for place, (user_id, follows) in enumerate(zip(world.users.tolist(), follows_of, strict=True))
    )
    changes = id_at(now_ms - FOLLOWS_MADE_BEFORE_MS) + np.arange(len(world.followers))
    follows = zip(
        world.users[world.followers].tolist(),
        world.users[world.followees].tolist(),
        repeat(int(EdgeState.FOLLOWING)),
        changes.tolist(),
        (bucket_places(world.followees) // BUCKET_CAPACITY).tolist(),
        repeat(0),
        *map(repeat, PUBLISHED),
        strict=False,
    )
    row = FOLLOWING.c
    side = select(row.followee_id, row.bucket, row.follower_id, row.changed_id)
    counts = select(row.followee_id, row.bucket, func.count()).group_by(row.followee_id, row.bucket)
    async with open_database(url, GRAPH_TABLES) as database:

        def work(connection: Connection) -> None:
            _insert_all(connection, USERS, bar.track(_batches(users), total=len(world.users), what="users"))
            _insert_all(connection, FOLLOWING, bar.track(_batches(follows), total=len(changes), what="follows"))
            names = ["followee_id", "bucket", "follower_id", "followed_id"]
            order = (row.followee_id, row.bucket, row.follower_id)
            connection.execute(insert(FOLLOWERS).from_select(names, side.order_by(*order)))
            connection.execute(insert(FOLLOWER_BUCKETS).from_select(["followee_id", "bucket", "n"], counts))

        await database.write(work, timeout_s=WRITE_TIMEOUT_S)


async def store_posts(url: str, world: StoredWorld, bar: Progress, *, caption: str) -> None:
    """The posts, all with the same caption."""
    order = np.argsort(world.posts)
    posts = zip(
        world.posts[order].tolist(),
        world.users[world.authors[order]].tolist(),
        repeat(caption),
        repeat(""),
        repeat(""),
        repeat(int(PostState.ACTIVE)),
        repeat(1),
        *map(repeat, PUBLISHED),
        strict=False,
    )
    async with open_database(url, POST_TABLES) as database:
        batches = bar.track(_batches(posts), total=len(order), what="posts")
        await database.write(lambda connection: _insert_all(connection, POSTS, batches), timeout_s=WRITE_TIMEOUT_S)


async def store_tiers(url: str, *, pull_from: int) -> None:
    """Authors with so many followers are pulled, all others pushed, and every follow says so: no crossing is open."""
    large = (
        select(FOLLOWER_BUCKETS.c.followee_id)
        .group_by(FOLLOWER_BUCKETS.c.followee_id)
        .having(func.sum(FOLLOWER_BUCKETS.c.n) >= pull_from)
    )
    pulled, pushed = int(Tier.PULL), int(Tier.PUSH)
    steps = [
        update(USERS).where(USERS.c.user_id.in_(large), USERS.c.tier != pulled).values(tier=pulled),
        update(USERS).where(USERS.c.user_id.not_in(large), USERS.c.tier != pushed).values(tier=pushed),
        update(FOLLOWING).where(FOLLOWING.c.followee_id.in_(large), FOLLOWING.c.pulled != pulled).values(pulled=pulled),
        update(FOLLOWING).where(FOLLOWING.c.followee_id.not_in(large), FOLLOWING.c.pulled != 0).values(pulled=0),
    ]
    async with open_database(url, GRAPH_TABLES) as database:
        await database.write(lambda connection: [connection.execute(step) for step in steps], timeout_s=WRITE_TIMEOUT_S)


def _batches(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, ROWS_AT_ONCE)):
        yield batch


def _insert_all(connection: Connection, table: Table, batches: Iterable[list[tuple[Any, ...]]]) -> None:
    # By position: making a dict of each of millions of rows would take longer than the database does.
    statement = str(insert(table).compile(dialect=connection.dialect))
    for batch in batches:
        connection.exec_driver_sql(statement, batch)
