"""Who is calling: a user by token, or a service by the mesh's internal key."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from pathlib import Path

from foundation.errors import Unauthenticated
from foundation.model.clock import Clock
from foundation.rpc.tokens import TokenVerifier

INTERNAL_HEADER = "x-feedmesh-internal"
_BEARER = "bearer "


class Authenticator:
    """Checks the metadata of a call."""

    def __init__(self, verifier: TokenVerifier, internal_key: str) -> None:
        if len(internal_key) < 16:
            raise ValueError("the internal key needs at least 16 characters: set FEEDMESH_INTERNAL_KEY")
        self._verifier = verifier
        self._internal_key = internal_key.encode()

    @classmethod
    def from_jwks_file(cls, path: str, *, issuer: str, audience: str, internal_key: str, clock: Clock) -> Authenticator:
        """Reads the JWKS at *path* once."""
        jwks = json.loads(Path(path).read_text())
        return cls(TokenVerifier(jwks, issuer=issuer, audience=audience, clock=clock), internal_key)

    def user(self, metadata: Mapping[str, str | bytes]) -> int:
        """The user id of the token. Raises Unauthenticated (TOKEN_MISSING, TOKEN_INVALID, TOKEN_EXPIRED)."""
        header = metadata.get("authorization", "")
        if not isinstance(header, str) or not header:
            raise Unauthenticated("TOKEN_MISSING", "send `authorization: Bearer <token>`")
        if header[: len(_BEARER)].lower() != _BEARER:
            raise Unauthenticated("TOKEN_INVALID", "the authorization header is no bearer token")
        return self._verifier.user_of(header[len(_BEARER) :].strip())

    def service(self, metadata: Mapping[str, str | bytes]) -> None:
        """Raises Unauthenticated (INTERNAL_KEY_INVALID) unless the caller has the mesh's key."""
        given = metadata.get(INTERNAL_HEADER, "")
        if not hmac.compare_digest(given.encode() if isinstance(given, str) else given, self._internal_key):
            raise Unauthenticated("INTERNAL_KEY_INVALID", "this RPC is for services of the mesh")
