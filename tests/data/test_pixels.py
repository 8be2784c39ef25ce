"""The one reader of images: every mode comes as what a person sees."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch.utils.data import Dataset

from dd_plugins import RealData, get_dataset
from dd_plugins.data.images import Images
from dd_plugins.data.pixels import pixels_of
from dd_plugins.errors import DataError

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
COLOURS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


class Pictures(Dataset[Any]):
    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return self.image, index % 2


def folder_of(root: Path, image: Image.Image, ending: str = "png", **how: Any) -> Path:
    """Write an image four times, for two classes."""
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            image.save(root / name / f"{number}.{ending}", **how)
    return root


def read_by_all_doors(
    root: Path, image: Image.Image, ending: str = "png", **how: Any
) -> np.ndarray:
    """Return the pixels that a folder, a Dataset and a stream of an image give."""
    file = next(folder_of(root, image, ending, **how).rglob(f"*.{ending}"))
    by_folder = get_dataset(f"folder:{root}").train.images[:1][0]
    with Image.open(file) as opened:
        opened.load()
        found = [
            RealData.from_dataset(Pictures(opened), stream=stream, workers=0)
            for stream in (False, True)
        ]
    for data in found:
        image_of_dataset = data.train.images[:1][0]
        assert torch.equal(image_of_dataset.expand_as(by_folder), by_folder)
    return by_folder.numpy()


@pytest.mark.parametrize(
    ("values", "ending"),
    [
        (GREY.astype(np.uint16) * 257, "png"),
        (GREY.astype(np.uint16) * 257, "tiff"),
        (GREY.astype(np.uint16) * 257, "pgm"),
    ],
)
def test_16_bits_are_scaled_to_8(
    tmp_path: Path, values: np.ndarray, ending: str
) -> None:
    found = read_by_all_doors(tmp_path, Image.fromarray(values), ending)
    assert (found == GREY).all()


def test_dark_16_bits_are_not_clipped(tmp_path: Path) -> None:
    twelve_bits = (GREY.astype(np.uint16) * 16)[:, ::-1].copy()
    found = read_by_all_doors(tmp_path, Image.fromarray(twelve_bits))
    assert (found == np.round(twelve_bits / 257)).all()
    assert len(np.unique(found)) > 10


def test_16_bits_may_stand_beside_8(tmp_path: Path) -> None:
    folder_of(tmp_path, Image.fromarray(GREY))
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "ant" / "0.png")
    data = get_dataset(f"folder:{tmp_path}")
    assert all((image.numpy() == GREY).all() for image in data.train.images[:])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, mode: str) -> None:
    values = GREY.astype(np.int32 if mode == "I" else np.float32) * 100
    folder = folder_of(tmp_path, Image.fromarray(values), "tiff")
    told = (
        "32-bit integers" if mode == "I" else r"must be in \[0, 1\], got \[0, 25200\]"
    )
    with pytest.raises(DataError, match=told):
        get_dataset(f"folder:{folder}")


def test_floating_pixels_in_the_unit_range_stay_as_they_are(tmp_path: Path) -> None:
    values = GREY.astype(np.float32) / 255
    assert (
        read_by_all_doors(tmp_path, Image.fromarray(values), "tiff") == values
    ).all()


def transparent(mode: str) -> Image.Image:
    """Return an image whose left half is black and opaque, its right one invisible."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    if mode == "P":
        palette = Image.new("P", (8, 8), 1)
        palette.putpalette([0, 0, 0, 200, 10, 10])
        palette.paste(0, (0, 0, 4, 8))
        palette.info["transparency"] = 1
        return palette
    if mode == "L":
        grey = Image.new("L", (8, 8), 77)
        grey.paste(0, (0, 0, 4, 8))
        grey.info["transparency"] = 77
        return grey
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_transparent_images_stand_on_white(tmp_path: Path, mode: str) -> None:
    image = transparent(mode)
    how = {} if mode in ("RGBA", "LA") else {"transparency": image.info["transparency"]}
    found = read_by_all_doors(tmp_path, image, **how)
    assert (found[..., :4] == 0).all()
    assert (found[..., 4:] == 255).all()


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    image = Image.new("RGBA", (2, 2), (0, 100, 200, 128))
    expected = [round(255 + (value - 255) * 128 / 255) for value in (0, 100, 200)]
    assert pixels_of(image)[:, 0, 0].tolist() == expected
    assert pixels_of(image.convert("RGBa"))[:, 0, 0].tolist() == pytest.approx(
        expected, abs=1
    )


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "P", "1"])
def test_other_colour_spaces_become_what_they_show(tmp_path: Path, mode: str) -> None:
    colours = Image.new("RGB", (8, 8), (255, 255, 255))
    colours.paste((200, 40, 40), (0, 0, 4, 8))
    image = colours.convert("1") if mode == "1" else None
    if image is None and mode == "LAB":
        from PIL import ImageCms

        profiles = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
        image = ImageCms.applyTransform(
            colours, ImageCms.buildTransform(*profiles, "RGB", "LAB")
        )
    image = image or (colours.quantize() if mode == "P" else colours.convert(mode))
    found = pixels_of(image)
    if mode == "1":
        assert found.shape == (1, 8, 8)
        assert set(found.unique().tolist()) == {0, 255}
        return
    shown = torch.from_numpy(np.array(colours)).movedim(-1, 0).int()
    assert (found.int() - shown).abs().max() <= (12 if mode == "LAB" else 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff"])
def test_photographs_are_upright(tmp_path: Path, orientation: int, ending: str) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :, 0], upright[:, :8, 1] = 255, 255
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    photograph = Image.fromarray(upright)
    exif = photograph.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    if orientation > 1:
        photograph = photograph.transpose(undo[orientation])
    how = {"quality": 100, "subsampling": 0} if ending == "jpg" else {}
    found = read_by_all_doors(tmp_path, photograph, ending, exif=exif, **how)
    assert found.shape == (3, 16, 24)
    assert np.abs(found.astype(int) - upright.transpose(2, 0, 1)).max() < 90
    assert np.abs(found.astype(int) - upright.transpose(2, 0, 1)).mean() < 9


def test_a_turned_photograph_is_of_one_size_with_the_others(tmp_path: Path) -> None:
    folder_of(tmp_path, Image.new("RGB", (6, 4)), "jpg")
    turned = Image.new("RGB", (4, 6))
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "ant" / "1.jpg", exif=exif)  # in the test part
    assert get_dataset(f"folder:{tmp_path}").read_test().images.shape == (2, 3, 4, 6)


def test_huge_images_are_resized_or_refused_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path, Image.fromarray(COLOURS))
    Image.new("1", (4000, 3000)).save(folder / "ant" / "0.png")
    monkeypatch.setattr("dd_plugins.data.pixels._MOST_PIXELS", 10_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_dataset(f"folder:{folder}", image_size=8).image_shape == (3, 8, 8)
        with pytest.raises(DataError, match=r"has 4000x3000 pixels.*--image-size"):
            get_dataset(f"folder:{folder}")
        monkeypatch.setattr("dd_plugins.data.pixels._MOST_PIXELS_RESIZED", 11_000_000)
        with pytest.raises(
            DataError, match=r"has 4000x3000 pixels.*shrink it or remove"
        ):
            get_dataset(f"folder:{folder}", image_size=8)
    assert Image.MAX_IMAGE_PIXELS == 89_478_485, "Pillow's own limit is left as it was"


def test_pictures_are_read_the_same_as_before(tmp_path: Path) -> None:
    """Plain grey and colour files give the bytes that torchvision's reader gave."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2.functional import pil_to_tensor

    for number, array in enumerate((GREY, COLOURS)):
        folder = folder_of(tmp_path / str(number), Image.fromarray(array), "png")
        data = get_dataset(f"folder:{folder}")
        whole = Images(*data.train)
        expected = pil_to_tensor(ImageFolder(str(folder))[0][0])
        assert torch.equal(whole.images[:1][0], expected)
