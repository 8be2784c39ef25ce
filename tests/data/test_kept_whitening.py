"""A whitening is fitted once, and is the same to the bit when it is found again."""

from pathlib import Path

import pytest
import torch

from dd_plugins import RealData
from dd_plugins.data import kept_whitening
from dd_plugins.data.kept_whitening import fitted_transform
from dd_plugins.data.preprocess import Transform
from dd_plugins.errors import DDWarning


def images(seed: int, preprocessing: str = "zca") -> RealData:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(400, 3, 10, 10, generator=generator)
    labels = torch.arange(400) % 2
    return RealData.from_tensors(pixels, labels, preprocessing=preprocessing)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every whitening, in a folder of the test."""
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    monkeypatch.setattr(kept_whitening, "_LONG", 0)
    return tmp_path


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("whitening/*"))


@pytest.mark.parametrize("kind", ["zca", "pixel-zca"])
def test_it_is_fitted_once_and_the_same_to_the_bit(
    kind: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fitted_transform(images(0, kind))
    assert first.fingerprint == Transform.fit(images(0).train.images, kind).fingerprint  # type: ignore[arg-type]
    monkeypatch.setattr(Transform, "fit", None)
    again = fitted_transform(images(0, kind))
    assert again.kind == kind
    sample = images(1).train.images[:5]
    assert torch.equal(first(sample), again(sample))
    assert len(files(cache)) == 1


def test_other_images_and_other_threads_have_their_own(cache: Path) -> None:
    fitted_transform(images(0))
    fitted_transform(images(1))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        fitted_transform(images(0))
    finally:
        torch.set_num_threads(threads)
    assert len(files(cache)) == 3


def test_what_is_not_whitened_is_not_kept(cache: Path) -> None:
    fitted_transform(images(0, "standardize"))
    assert files(cache) == []


def test_a_damaged_file_is_replaced(cache: Path) -> None:
    first = fitted_transform(images(0))
    (path,) = files(cache)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(DDWarning, match="fitted again"):
        assert fitted_transform(images(0)).fingerprint == first.fingerprint
    assert fitted_transform(images(0)).fingerprint == first.fingerprint


def test_a_cache_that_cannot_be_written_stops_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("DD_CACHE", str(cache / "file"))
    with pytest.warns(DDWarning, match="not kept"):
        fitted_transform(images(0))
