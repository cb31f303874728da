"""What a request id is bound to: the same id with another body is a mistake of the caller."""

from __future__ import annotations

import hashlib

from graph_svc.model import NewUser


def digest(user: NewUser) -> bytes:
    """32 bytes that stand for the body of a request for an account."""
    return hashlib.sha256(f"{user.username}\0{user.avatar_url}".encode()).digest()
