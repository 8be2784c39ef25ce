"""What somebody has asked for here is remembered; an artifact's word alone is not."""

from pathlib import Path

import pytest

from dd_plugins.plugins.asked_for import remember, was_requested

NAMES = [
    "folder:pictures",
    "folder:/a/b c/ü",
    "folder:" + "x" * 5_000,
    "folder:../../..",
    "folder:a\0b",
    ":",
    "folder:caf\udce9",  # as Python writes a path that is not UTF-8
]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DD_CACHE", str(folder))
    return folder


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_with_an_argument_is_known_once_it_was_given(
    name: str, kept: Path
) -> None:
    assert not was_requested(name)
    remember(name)
    assert was_requested(name)
    assert not any(map(was_requested, (f"{name}x", f"x{name}", f"{name} ")))
    outside = [path for path in kept.parent.rglob("*") if kept not in path.parents]
    assert outside in ([kept], []), "it leads out of the cache"


def test_a_name_alone_needs_no_asking(kept: Path) -> None:
    assert was_requested("digits")
    remember("digits")
    assert not kept.exists()


def test_a_name_is_noted_once(kept: Path) -> None:
    remember("folder:a")
    (file,) = [path for path in kept.rglob("*") if path.is_file()]
    written = file.stat().st_mtime_ns
    assert file.read_bytes() == b"folder:a"
    remember("folder:a")
    assert file.stat().st_mtime_ns == written
    remember("folder:b")
    assert len(list(file.parent.iterdir())) == 2


def test_without_a_cache_nothing_is_known_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", "/proc/none", "x" * 5_000):
        monkeypatch.setenv("DD_CACHE", str(folder))
        remember("folder:a")
        assert not was_requested("folder:a")
        assert was_requested("digits")
