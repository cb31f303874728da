"""Jars are what was pinned, or they are not there."""

import hashlib
from pathlib import Path

import pytest

from feedmesh_cli.engines import jars
from feedmesh_cli.engines.jars import JarPlaces, class_paths, missing_jars
from feedmesh_cli.failures import CliError

CONTENT = b"a jar"
PATH = "org/example/one/1.0/one-1.0.jar"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JarPlaces:
    """A mirror with one jar, which the lock names, and an empty cache."""
    lock = tmp_path / "jars.lock"
    lock.write_text(f"[kafka]\n{hashlib.sha256(CONTENT).hexdigest()} {PATH}\n", encoding="utf-8")
    monkeypatch.setattr(jars, "LOCK", lock)
    jar = tmp_path / "mirror" / PATH
    jar.parent.mkdir(parents=True)
    jar.write_bytes(CONTENT)
    return JarPlaces(maven_url=(tmp_path / "mirror").as_uri() + "/", cache_dir=str(tmp_path / "cache"))


async def test_a_jar_comes_from_the_mirror_once(places: JarPlaces, tmp_path: Path) -> None:
    assert missing_jars(["kafka"], places) == 1
    paths = await class_paths(["kafka"], lambda _, __: None, places)
    assert Path(paths["kafka"]).read_bytes() == CONTENT
    (tmp_path / "mirror" / PATH).unlink()
    assert await class_paths(["kafka"], lambda _, __: None, places) == paths


async def test_another_jar_than_the_pinned_one_is_refused_and_leaves_no_file(places: JarPlaces, tmp_path: Path) -> None:
    (tmp_path / "mirror" / PATH).write_bytes(b"another")
    with pytest.raises(CliError, match="not the one that was pinned") as refused:
        await class_paths(["kafka"], lambda _, __: None, places)
    assert "FEEDMESH_MAVEN_URL" in refused.value.next_step
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert missing_jars(["kafka"], places) == 1
