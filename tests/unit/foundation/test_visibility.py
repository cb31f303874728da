"""Who may see what, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.visibility import AuthorFacts, Edge, EdgeState, PostState, Surface, UserState, visible

ANA, BO = 1, 2
FOLLOWING = Edge(EdgeState.FOLLOWING, blocked=False, muted=False)
STRANGER = Edge(EdgeState.NONE, blocked=False, muted=False)
OPEN = AuthorFacts(BO, UserState.ACTIVE, is_private=False)
PRIVATE = AuthorFacts(BO, UserState.ACTIVE, is_private=True)


@pytest.mark.parametrize(
    ("author", "edge", "in_feed", "directly", "recommended"),
    [
        (OPEN, FOLLOWING, True, True, True),
        (OPEN, STRANGER, False, True, True),
        (PRIVATE, FOLLOWING, True, True, True),
        (PRIVATE, STRANGER, False, False, False),
        (PRIVATE, Edge(EdgeState.REQUESTED, blocked=False, muted=False), False, False, False),
        (OPEN, Edge(EdgeState.FOLLOWING, blocked=True, muted=False), False, False, False),
        (OPEN, Edge(EdgeState.NONE, blocked=True, muted=False), False, False, False),
        (OPEN, Edge(EdgeState.FOLLOWING, blocked=False, muted=True), False, True, False),
        (OPEN, Edge(EdgeState.NONE, blocked=False, muted=True), False, True, False),
    ],
)
def test_the_table(author: AuthorFacts, edge: Edge, in_feed: bool, directly: bool, recommended: bool) -> None:
    assert visible(ANA, author, PostState.ACTIVE, edge, Surface.FEED) is in_feed
    assert visible(ANA, author, PostState.ACTIVE, edge, Surface.DIRECT) is directly
    assert visible(ANA, author, PostState.ACTIVE, edge, Surface.RECOMMENDED) is recommended


edges = st.builds(Edge, st.sampled_from(EdgeState), blocked=st.booleans(), muted=st.booleans())
facts = st.builds(AuthorFacts, st.sampled_from([ANA, BO]), st.sampled_from(UserState), is_private=st.booleans())


@given(facts, edges, st.sampled_from(PostState), st.sampled_from(Surface))
def test_what_is_gone_is_gone_for_everybody(author: AuthorFacts, edge: Edge, post: PostState, surface: Surface) -> None:
    if post is PostState.DELETED or author.state is not UserState.ACTIVE:
        assert not visible(ANA, author, post, edge, surface)


@given(facts, edges, st.sampled_from(Surface))
def test_one_sees_ones_own_but_never_as_a_recommendation(author: AuthorFacts, edge: Edge, surface: Surface) -> None:
    if author.state is UserState.ACTIVE:
        shown = visible(author.author_id, author, PostState.ACTIVE, edge, surface)
        assert shown is (surface is not Surface.RECOMMENDED)
