"""Sealed text and tokens: nothing forged, foreign, changed or expired gets through."""

from __future__ import annotations

import base64
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import InvalidArgument, Unauthenticated
from foundation.model.clock import Millis, SystemRandomness
from foundation.rpc.tokens import DevIssuer, TokenVerifier
from foundation.runtime.mesh import MeshSettings
from foundation.runtime.settings import SettingsInvalid, from_environment
from foundation.seal import Sealer

SEALER = Sealer({1: b"a" * 32, 2: b"b" * 32}, 2, SystemRandomness())
NOW_S = 1_800_000_000


class HandClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def now_ms(self) -> Millis:
        return Millis(self.now_s * 1000)

    def monotonic(self) -> float:
        return float(self.now_s)


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_what_is_sealed_comes_back(plain: bytes, bound_to: bytes) -> None:
    assert SEALER.open(SEALER.seal(plain, bound_to), bound_to) == plain


@given(st.binary(min_size=1, max_size=60), st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_refused(plain: bytes, place: int, bit: int) -> None:
    text = SEALER.seal(plain, b"ana")
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises(InvalidArgument):
        SEALER.open(base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode(), b"ana")


@given(st.text(max_size=80))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        SEALER.open(text, b"ana")
    assert refused.value.reason == "CURSOR_INVALID"


def test_sealed_text_is_bound_and_old_keys_open_it_until_they_go() -> None:
    old = Sealer({1: b"a" * 32}, 1, SystemRandomness()).seal(b"x", b"ana")
    assert SEALER.open(old, b"ana") == b"x"
    with pytest.raises(InvalidArgument):
        SEALER.open(old, b"bo")
    with pytest.raises(InvalidArgument):
        Sealer({2: b"b" * 32}, 2, SystemRandomness()).open(old, b"ana")


@pytest.fixture
def issuer(tmp_path: Path) -> DevIssuer:
    return DevIssuer.load_or_create(tmp_path)


def verifier(issuer: DevIssuer, clock: HandClock) -> TokenVerifier:
    return TokenVerifier(issuer.jwks(), issuer="feedmesh-dev", audience="feedmesh", clock=clock)


def test_a_token_names_its_user_until_it_expires(issuer: DevIssuer) -> None:
    clock = HandClock()
    checking = verifier(issuer, clock)
    token = issuer.mint(42, "ana", now_s=NOW_S, ttl_s=60)
    assert checking.user_of(token) == 42
    clock.now_s += 60
    with pytest.raises(Unauthenticated) as refused:
        checking.user_of(token)
    assert refused.value.reason == "TOKEN_EXPIRED"


def test_forged_tokens_are_refused(issuer: DevIssuer, tmp_path: Path) -> None:
    checking = verifier(issuer, HandClock())
    other_place = tmp_path / "other"
    other_place.mkdir()
    foreign = DevIssuer.load_or_create(other_place)
    claims = {"iss": "feedmesh-dev", "aud": "feedmesh", "sub": "42", "uid": "42", "exp": NOW_S + 60}
    wrong_audience = DevIssuer.load_or_create(tmp_path, audience="elsewhere")
    for token in [
        foreign.mint(42, "ana", now_s=NOW_S),
        jwt.encode(claims, "", algorithm="none", headers={"kid": "dev-1"}),
        jwt.encode(claims, "a shared secret of the right length!", algorithm="HS256", headers={"kid": "dev-1"}),
        wrong_audience.mint(42, "ana", now_s=NOW_S),
        issuer.mint(0, "nobody", now_s=NOW_S),
        issuer.mint(42, "ana", now_s=NOW_S)[:-4],
        "a.b.c",
        "",
    ]:
        with pytest.raises(Unauthenticated) as refused:
            checking.user_of(token)
        assert refused.value.reason == "TOKEN_INVALID"


def test_the_issuer_keeps_its_key_to_itself(issuer: DevIssuer, tmp_path: Path) -> None:
    assert (tmp_path / "issuer.pem").stat().st_mode & 0o077 == 0
    again = DevIssuer.load_or_create(tmp_path)
    assert again.jwks() == issuer.jwks()
    assert "d" not in issuer.jwks()["keys"][0]


def test_settings_come_from_the_environment_and_faults_are_told_together() -> None:
    made = from_environment(MeshSettings, {"FEEDMESH_PORT": "7", "FEEDMESH_ENGINE": "grpcio"})
    assert (made.port, made.engine, made.host) == (7, "grpcio", "127.0.0.1")
    with pytest.raises(SettingsInvalid, match=r"(?s)FEEDMESH_REGION.*FEEDMESH_ENGINE|FEEDMESH_ENGINE.*FEEDMESH_REGION"):
        from_environment(MeshSettings, {"FEEDMESH_REGION": "west", "FEEDMESH_ENGINE": "steam"})
