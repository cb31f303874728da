"""What is newer than what a viewer has: counted to a bound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, takewhile

from feed_svc.model import Slate
from feed_svc.ports import Shelf
from feed_svc.stages.slate import fill_slate
from foundation.viewers import ViewerRecord

COUNTED = 100
"""Counting stops here: it stands for "more than 99"."""
LOOKED_AT = 300
"""Newest ids looked at: who hides two thirds of a feed may see a smaller number than there is."""


async def newer_posts(shelf: Shelf, viewer_id: int, viewer: ViewerRecord, ids: Sequence[int], since_id: int) -> Slate:
    """Up to COUNTED visible posts of descending *ids* above *since_id*, by the same rule and records as a page."""
    newer = list(islice(takewhile(lambda post_id: post_id > since_id, ids), LOOKED_AT))
    return await fill_slate(shelf, viewer_id, viewer, newer, COUNTED)
