"""Sealed text: bytes that callers carry but can neither read, change nor pass on to somebody else."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from foundation.errors import InvalidArgument
from foundation.model.clock import Randomness

_NONCE_BYTES = 12


class Sealer:
    """AES-GCM under one of a few live keys: url-safe base64 of key id, nonce and ciphertext."""

    def __init__(self, keys: Mapping[int, bytes], current: int, randomness: Randomness) -> None:
        if current not in keys:
            raise ValueError(f"no key {current} among {sorted(keys)}")
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._current = current
        self._randomness = randomness

    def seal(self, plain: bytes, bound_to: bytes) -> str:
        """Text that only `open` with the same *bound_to* turns back into *plain*."""
        nonce = self._randomness.token_bytes(_NONCE_BYTES)
        sealed = self._keys[self._current].encrypt(nonce, plain, bound_to)
        return base64.urlsafe_b64encode(bytes([self._current]) + nonce + sealed).rstrip(b"=").decode()

    def open(self, text: str, bound_to: bytes) -> bytes:
        """What was sealed. Raises InvalidArgument(CURSOR_INVALID) for anything else."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            return self._keys[raw[0]].decrypt(raw[1 : 1 + _NONCE_BYTES], raw[1 + _NONCE_BYTES :], bound_to)
        except (binascii.Error, ValueError, IndexError, KeyError, InvalidTag):
            raise InvalidArgument("CURSOR_INVALID", "this cursor was not made for this call") from None
