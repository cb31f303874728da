"""Made-up worlds."""

import re

import numpy as np
import pytest

from feedmesh_cli.edge_list import EdgeList
from feedmesh_cli.world import as_world, make_world


def test_the_same_seed_makes_the_same_world_and_another_seed_another() -> None:
    one, again, other = make_world(200, seed=7), make_world(200, seed=7), make_world(200, seed=8)
    assert np.array_equal(one.follows, again.follows)
    assert one.posts == again.posts
    assert not np.array_equal(one.follows, other.follows)


@pytest.mark.parametrize("users", [2, 3, 11, 12, 50, 777])
def test_every_world_is_well_formed(users: int) -> None:
    world = make_world(users, seed=1)
    assert len(set(world.usernames)) == users
    assert all(re.fullmatch(r"[a-z0-9._]{1,30}", name) for name in world.usernames)
    assert len(np.unique(world.follows, axis=0)) == len(world.follows)
    assert (world.follows[:, 0] != world.follows[:, 1]).all()
    assert world.follows.min() >= 0
    assert world.follows.max() < users
    assert len(np.unique(world.follows[:, 0])) == users, "everyone follows someone"
    assert len(np.unique(world.follows[:, 1])) == users, "everyone is followed"
    posts_of = np.bincount([post.author for post in world.posts], minlength=users)
    assert posts_of.min() >= 2
    assert posts_of.max() <= 5


def test_the_first_is_a_celebrity_and_followers_have_a_long_tail() -> None:
    world = make_world(2000, seed=1)
    followers = np.bincount(world.follows[:, 1], minlength=2000)
    assert followers[0] > 1000
    assert np.median(followers) < followers.mean()
    assert followers[0] > 50 * np.median(followers)


def test_most_follows_stay_in_their_community() -> None:
    world = make_world(800, seed=1)
    ordinary = world.follows[world.follows[:, 1] != 0]
    same = ordinary[:, 0] % 8 == ordinary[:, 1] % 8
    assert same.mean() > 0.6


def test_a_world_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="2 users"):
        make_world(1, seed=1)


def test_an_edge_list_becomes_a_world_with_posts_in_turns() -> None:
    graph = EdgeList(nodes=(3, 7), follows=((3, 7), (7, 3)))
    world = as_world(graph, posts_per_user=2)
    assert world.usernames == ["n3", "n7"]
    assert world.follows.tolist() == [[0, 1], [1, 0]]
    assert [post.author for post in world.posts] == [0, 1, 0, 1]
    assert as_world(graph, posts_per_user=0).posts == []
