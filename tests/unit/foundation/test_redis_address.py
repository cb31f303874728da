"""How the address of the cluster is written."""

from __future__ import annotations

import re

import pytest

from foundation.redis.address import OPEN, Access, RedisAddress
from foundation.runtime.mesh import MeshSettings

NODES = [("one", 7000), ("10.0.0.2", 7001)]


def test_nodes_alone_need_no_scheme() -> None:
    assert RedisAddress.parse("one:7000, 10.0.0.2:7001") == RedisAddress(nodes=NODES)
    assert RedisAddress.parse("redis://one:7000,10.0.0.2:7001").access == OPEN
    assert MeshSettings(redis="one:7000").redis_address().nodes == [("one", 7000)]


@pytest.mark.parametrize(
    ("text", "access", "login"),
    [
        ("redis://:p%40ss@one:7000", Access(password="p@ss"), ("AUTH", "p@ss")),
        ("redis://ana:a%3Ab@one:7000", Access(username="ana", password="a:b"), ("AUTH", "ana", "a:b")),
        ("rediss://one:7000", Access(tls=True), ()),
        ("rediss://:p@one:7000?ca=/etc/ca.pem", Access(password="p", tls=True, ca="/etc/ca.pem"), ("AUTH", "p")),
    ],
)
def test_the_way_in_is_part_of_it(text: str, access: Access, login: tuple[str, ...]) -> None:
    parsed = RedisAddress.parse(text)
    assert parsed == RedisAddress(nodes=[("one", 7000)], access=access)
    assert parsed.access.login() == login


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("one", "'one' is not host:port"),
        (":7000", "':7000' is not host:port"),
        ("one:7000,", "'' is not host:port"),
        ("kafka://one:7000", "a redis:// or rediss:// address is needed, this is kafka"),
        ("redis://one:7000?db=1", "unknown option 'db': ca"),
        ("redis://one:7000?ca=a.pem", "ca is for rediss://"),
        ("redis://ana@one:7000", "user 'ana' has no password"),
        ("redis://ana:secret@one", "'one' is not host:port"),
    ],
)
def test_faults_are_named_without_the_password(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)) as caught:
        RedisAddress.parse(text)
    assert str(caught.value) == fault


def test_a_password_is_never_shown() -> None:
    parsed = RedisAddress.parse("redis://ana:secret@one:7000,two:7001")
    assert "secret" not in repr(parsed)
    assert parsed.shown == "one:7000,two:7001"
