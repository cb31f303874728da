"""What `visible()` decided on the home feed, in words. Pure."""

from __future__ import annotations

from foundation.visibility import AuthorFacts, Edge, EdgeState, PostState, Surface, visible

_RECOMMENDED = "recommended: popular among the people whom those you follow follow"


def decision(
    viewer_id: int, author: AuthorFacts, post: PostState, edge: Edge, *, recommended: bool = False
) -> tuple[bool, str]:
    """Whether the feed shows the post, and why; of posts that the viewer may see at all."""
    shown = visible(viewer_id, author, post, edge, Surface.RECOMMENDED if recommended else Surface.FEED)
    if viewer_id == author.author_id:
        why = "you wrote it"
    elif edge.muted and (recommended or edge.follow is EdgeState.FOLLOWING):
        why = "you mute the author"
    elif edge.follow is not EdgeState.FOLLOWING:
        why = _RECOMMENDED if recommended else "you do not follow the author"
    else:
        why = "you follow the author"
    return shown, f"{'shown' if shown else 'hidden'}: {why}"
