"""What a request id is bound to: the same id with another body is a mistake of the caller."""

from __future__ import annotations

import hashlib
import json

from post_svc.model import Draft


def digest(draft: Draft) -> bytes:
    """32 bytes that stand for the body of a post."""
    return hashlib.sha256(json.dumps([draft.caption, draft.hashtags, draft.location_id]).encode()).digest()
