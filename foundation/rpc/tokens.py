"""Tokens: ES256 JWTs with a development issuer. The user of a call is the `uid` of its verified token, nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from foundation.errors import Unauthenticated
from foundation.model.clock import Clock

ALGORITHM = "ES256"
"""The only algorithm that is accepted."""
CACHE_SIZE = 50_000
KEY_ID = "dev-1"


@dataclass(slots=True, frozen=True)
class _Verified:
    user_id: int
    expires_s: int


class TokenVerifier:
    """Verifies tokens against a JWKS; a token seen before costs one hash until it expires."""

    def __init__(self, jwks: Mapping[str, Any], *, issuer: str, audience: str, clock: Clock) -> None:
        self._keys = {key["kid"]: jwt.PyJWK(key, algorithm=ALGORITHM).key for key in jwks["keys"]}
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._cache: dict[bytes, _Verified] = {}

    def user_of(self, token: str) -> int:
        """The user id. Raises Unauthenticated (TOKEN_INVALID, TOKEN_EXPIRED)."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        verified = self._cache.get(digest)
        if verified is None:
            verified = self._verify(token)
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[digest] = verified
        if verified.expires_s * 1000 <= self._clock.now_ms():
            raise Unauthenticated("TOKEN_EXPIRED", "the token has expired: get a new one")
        return verified.user_id

    def _verify(self, token: str) -> _Verified:
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                options={"require": ["exp", "iss", "aud", "sub"], "verify_exp": False, "verify_iat": False},
            )
            user_id = int(claims["uid"])
        except (jwt.PyJWTError, KeyError, ValueError, TypeError) as exc:
            raise Unauthenticated("TOKEN_INVALID", "the token is not valid here") from exc
        if user_id <= 0:
            raise Unauthenticated("TOKEN_INVALID", "the token names no user")
        return _Verified(user_id, int(claims["exp"]))


class DevIssuer:
    """Makes tokens for development: its key lies beside the data and is worth nothing elsewhere."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, directory: Path, *, issuer: str, audience: str) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self.jwks_path = directory / "jwks.json"

    @classmethod
    def load_or_create(cls, directory: Path, *, issuer: str = "feedmesh-dev", audience: str = "feedmesh") -> DevIssuer:
        """The issuer whose key and jwks.json lie in *directory*; both are made when missing."""
        path = directory / "issuer.pem"
        if path.exists():
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError(f"{path} is no elliptic curve key: delete it to have a new one made")
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            path.touch(mode=0o600)
            path.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        issuer_made = cls(key, directory, issuer=issuer, audience=audience)
        issuer_made.jwks_path.write_text(json.dumps(issuer_made.jwks()))
        return issuer_made

    def jwks(self) -> dict[str, Any]:
        """The public key as a JWKS document."""
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**public, "kid": KEY_ID, "alg": ALGORITHM, "use": "sig"}]}

    def mint(self, user_id: int, username: str, *, now_s: int, ttl_s: int = 86_400) -> str:
        """A token for *user_id* that is valid for *ttl_s* seconds from *now_s*."""
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(user_id),
            "uid": str(user_id),
            "name": username,
            "iat": now_s,
            "exp": now_s + ttl_s,
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": KEY_ID})
