"""The slate: hydrate ids in order, keep what the viewer may see, refill from the ids that follow."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from feed_svc.model import Degraded, Slate
from feed_svc.ports import Shelf
from foundation.cards import splice_post
from foundation.viewers import ViewerRecord
from foundation.visibility import Surface, visible

SPARE = 4
"""Ids fetched beyond those still wanted, so that one hidden post costs no second round."""
MAX_ROUNDS = 60
"""Bound on refills of one page: enough for a feed of 500 of which almost all is hidden."""


async def fill_slate(
    shelf: Shelf,
    viewer_id: int,
    viewer: ViewerRecord,
    ids: Sequence[int],
    limit: int,
    *,
    recommended: Collection[int] = (),
    author_ids: Sequence[int] = (),
) -> Slate:
    """Up to *limit* visible posts of *ids*, in their order. `examined` tells how many of *ids* were used up.

    Those of *ids* that are *recommended* need not be followed. *author_ids*: of the same places, where they are known.

    Records are read in this request and `visible()` is applied to every one: nothing is shown on trust. A post whose
    record or author is not to be had is left out and, when its owner did not answer, says so.
    """
    slate = Slate(posts=[])
    for _ in range(MAX_ROUNDS):
        wanted = limit - len(slate.posts)
        if wanted <= 0 or slate.examined >= len(ids):
            break
        begin = slate.examined
        end = begin + wanted + (SPARE if begin == 0 else wanted)
        chunk = ids[begin:end]
        records = await shelf.fetch(chunk, author_ids[begin:end])
        for post_id in chunk:
            if len(slate.posts) == limit:
                break
            slate.examined += 1
            card = records.cards.get(post_id)
            author = records.authors.get(card.author_id) if card is not None else None
            if card is None or author is None:
                slate.gone += 1
                if not records.whole:
                    slate.reasons.add(Degraded.POSTS_UNAVAILABLE)
                continue
            surface = Surface.RECOMMENDED if post_id in recommended else Surface.FEED
            if visible(viewer_id, author.facts, card.state, viewer.edge(card.author_id), surface):
                slate.posts.append(splice_post(card.encoded, author.encoded))
            elif surface is Surface.FEED and card.author_id != viewer_id and card.author_id not in viewer.follows:
                slate.foreign += 1
        if slate.reasons:
            break  # who did not answer for these will not answer for the next ones either
    return slate
