"""The test images of scripts are those of the library."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets

from dd_plugins import get_dataset
from dd_plugins.exports.plain.real_images import read_images

SHAPE = torch.Size([3, 8, 8])


def test_a_folder_is_read_as_by_the_library(tmp_path: Path) -> None:
    """Transparent, turned by its EXIF tag, with a palette, grey."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    clear = Image.fromarray(pixels, "RGBA")
    turned = Image.fromarray(pixels[..., :3])
    tag = Image.Exif()
    tag[274] = 6  # turn by 90 degrees
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "ant/clear.png": (clear, {}),
        "ant/turned.png": (turned, {"exif": tag}),
        "bee/palette.png": (turned.quantize(16), {}),
        "bee/grey.png": (turned.convert("L"), {}),
    }
    for name, (picture, options) in pictures.items():
        for part in ("train", "test"):
            path = tmp_path / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, **options)
    expected = get_dataset(f"folder:{tmp_path}").read_test()
    found, labels = read_images(str(tmp_path / "test"), SHAPE, ["ant", "bee"])
    torch.testing.assert_close(found, expected.images[:].float() / 255)
    assert torch.equal(labels, expected.labels)
    told = r"a test set, with folders called \[.ant., .cow.\], got"
    with pytest.raises(SystemExit, match=told):
        read_images(str(tmp_path / "test"), SHAPE, ["ant", "cow"])


class Split(Dataset[Any]):
    """A data set whose test images are named by a split, as SVHN's are."""

    def __init__(self, root: str, split: str, transform: Any, download: bool) -> None:
        assert (split, download) == ("test", True)
        self.transform = transform

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError
        return self.transform(Image.new("RGB", (10, 12), (255, 0, 51))), index


def test_data_sets_of_torchvision_name_their_test_images_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets, "SVHN", Split)
    images, labels = read_images("SVHN", SHAPE, ["ant", "bee"])
    assert images.shape == (2, 3, 8, 8)
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([1, 0, 0.2]))
    assert labels.tolist() == [0, 1]


def test_test_images_of_another_range_shape_or_class_are_refused(
    tmp_path: Path,
) -> None:
    """They would give a figure that nobody could tell from a bad set's."""
    images, labels = np.ones((2, 3, 8, 8), dtype=np.uint8), np.array([0, 1])
    wrong: dict[str, dict[str, Any]] = {
        "in [0, 1]": {"images": 255 * images.astype(np.float32)},
        "of uint8": {"images": 255 * images.astype(np.int64)},
        "labels below 2": {"labels": labels + 1},
        "of shape (3, 8, 8)": {"images": np.ones((2, 3, 16, 16), dtype=np.uint8)},
    }
    file = tmp_path / "test.npz"
    for message, change in wrong.items():
        np.savez(file, **({"images": images, "labels": labels} | change))
        with pytest.raises(SystemExit) as refused:
            read_images(str(file), SHAPE, ["ant", "bee"])
        assert message in str(refused.value)
    np.savez(file, images=images, labels=labels)
    found, _ = read_images(str(file), SHAPE, ["ant", "bee"])
    torch.testing.assert_close(found, torch.full((2, 3, 8, 8), 1 / 255))
    with pytest.raises(SystemExit, match="photos/tset does not exist, and torchvision"):
        read_images("photos/tset", SHAPE, ["ant", "bee"])
