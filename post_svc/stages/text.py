"""Text as it is stored: one spelling, no invisible control. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from foundation.errors import InvalidArgument
from post_svc.model import Draft

MAX_CAPTION = 2_200
"""Characters."""
MAX_HASHTAGS = 30
_KEPT = "\n\t"


def clean_caption(caption: str) -> str:
    """NFC, without control and bidirectional-override characters. Raises InvalidArgument(FIELD_INVALID)."""
    clean = "".join(
        character
        for character in unicodedata.normalize("NFC", caption)
        if character in _KEPT or not _invisible(character)
    )
    if len(clean) > MAX_CAPTION:
        raise InvalidArgument("FIELD_INVALID", f"caption: at most {MAX_CAPTION} characters", field="caption")
    return clean


def clean_hashtags(hashtags: Iterable[str]) -> tuple[str, ...]:
    """Without leading '#', case folded, each once, in order. Raises InvalidArgument(FIELD_INVALID)."""
    folded = (clean_caption(tag).strip().lstrip("#").casefold() for tag in hashtags)
    clean = tuple(dict.fromkeys(tag for tag in folded if tag))
    if len(clean) > MAX_HASHTAGS:
        raise InvalidArgument("FIELD_INVALID", f"hashtags: at most {MAX_HASHTAGS}", field="hashtags")
    return clean


def clean_draft(caption: str, hashtags: Iterable[str], location_id: str) -> Draft:
    """A draft as it is stored."""
    return Draft(clean_caption(caption), clean_hashtags(hashtags), location_id)


def _invisible(character: str) -> bool:
    category = unicodedata.category(character)
    # Cf holds the bidirectional overrides, and the joiner that emoji are made with, which stays.
    return category == "Cc" or (category == "Cf" and character != "\u200d")
