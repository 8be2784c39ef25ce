"""Folders of images."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dd_plugins import RealData, get_dataset
from dd_plugins.errors import DataError, OptionError


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text.isprintable(), f"not one printable line: {text!r}"
    return text


def picture(value: int, size: tuple[int, int] = (6, 5)) -> Image.Image:
    """Return a coloured picture of that width and height, which ``value`` tells."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = value
    pixels[0, 0, 1] = 255
    return Image.fromarray(pixels)


def write_classes(folder: Path, **counts: int) -> Path:
    """Write numbered pictures, 10 apart, for each class."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture(10 * number).save(folder / name / f"{number:03d}.png")
    return folder


def load(folder: Path, image_size: int | None = None) -> RealData:
    return get_dataset(f"folder:{folder}", image_size=image_size)


def test_a_folder_gives_a_fifth_of_each_class_to_the_test_set(tmp_path: Path) -> None:
    data = load(write_classes(tmp_path, cat=20, ant=10))
    assert data.class_names == ("ant", "cat")
    assert data.image_shape == (3, 5, 6)
    assert data.name == f"folder:{tmp_path}"
    kept, held_out, test = data.train, data.validation, data.read_test()
    assert torch.bincount(test.labels).tolist() == [2, 4]
    # Each picture is in one split, with the label of its folder.
    found = sorted(
        (int(label), int(image[0, 2, 2]))
        for part in (kept, held_out, test)
        for image, label in zip(*part, strict=True)
    )
    assert found == [(0, 10 * n) for n in range(10)] + [(1, 10 * n) for n in range(20)]


def test_pictures_come_as_they_are(tmp_path: Path) -> None:
    data = load(write_classes(tmp_path, ant=3, bee=3))
    expected = torch.from_numpy(np.array(picture(10))).movedim(-1, 0)
    assert data.train.images.dtype == torch.uint8
    assert torch.equal(data.train.images[1], expected)


def test_train_and_test_folders_are_the_two_splits(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ant=10, bee=10)
    write_classes(tmp_path / "test", ant=1, bee=3)
    data = load(tmp_path)
    assert data.class_names == ("ant", "bee")
    assert len(data.train.labels) + len(data.validation.labels) == 20
    test = data.read_test()
    assert test.labels.tolist() == [0, 1, 1, 1]
    assert test.images[:, 0, 2, 2].tolist() == [0, 0, 10, 20]


def test_the_test_folder_is_not_read_before_it_is_asked_for(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ant=3, bee=3)
    broken = write_classes(tmp_path / "test", ant=1, bee=1) / "bee" / "000.png"
    broken.write_bytes(b"no picture")
    data = load(tmp_path)
    with pytest.raises(DataError, match=f"cannot read image {broken}"):
        data.read_test()


def test_test_folder_with_other_classes_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ant=3, bee=3)
    write_classes(tmp_path / "test", ant=1, cat=1)
    with pytest.raises(
        DataError, match="train and test must hold the same class folders"
    ):
        load(tmp_path).read_test()


def test_folders_of_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ant=3, bee=3)
    with pytest.raises(DataError, match="expected a folder 'test' beside 'train'"):
        load(tmp_path)


def test_mixed_sizes_are_refused_unless_a_size_is_given(tmp_path: Path) -> None:
    write_classes(tmp_path, ant=4, bee=4)
    # In the training images, and then in the part that is cut off as the test set.
    for name, told in (("000", r"\(3, 12, 9\) x1, \(3, 5, 6\) x1"), ("large", "12x9")):
        picture(7, (9, 12)).save(tmp_path / "ant" / f"{name}.png")
        with pytest.raises(DataError, match=told) as refused:
            load(tmp_path)
        assert "--image-size" in one_line(refused.value)
        picture(0).save(tmp_path / "ant" / "000.png")
    data = load(tmp_path, image_size=4)
    assert data.image_shape == (3, 4, 4)
    assert data.image_size == 4


@pytest.mark.parametrize("size", [(8, 4), (4, 8), (16, 8)])
def test_image_size_resizes_the_shorter_side_and_crops_the_centre(
    size: tuple[int, int], tmp_path: Path
) -> None:
    # The left, or the upper, half is black and the other white.
    width, height = size
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    expected = np.zeros((4, 4), dtype=np.uint8)
    expected[:, 2:] = 255
    if height > width:
        pixels = np.zeros((height, width), dtype=np.uint8)
        pixels[height // 2 :] = 255
        expected = expected.T
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in "01":
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    image = load(tmp_path, image_size=4).train.images[0]
    # Smoothing may change the pixels beside the edge, if it has to shrink.
    tolerance = 80 if size == (16, 8) else 0
    difference = image.int() - torch.from_numpy(expected.astype(np.int32))
    assert int(difference.abs().max()) <= tolerance


@pytest.mark.parametrize(
    "size",
    [0, -3],
)
def test_an_image_size_without_pixels_is_refused(size: int, tmp_path: Path) -> None:
    write_classes(tmp_path, ant=2, bee=2)
    with pytest.raises((OptionError, DataError), match="size"):
        load(tmp_path, image_size=size)


def truncated(png: bytes) -> bytes:
    return png[: len(png) // 2]


def flipped(png: bytes) -> bytes:
    place = png.index(b"IDAT") + 8
    return png[:place] + bytes([png[place] ^ 0xFF]) + png[place + 1 :]


def short_header(png: bytes) -> bytes:
    """Return a file with a header of five bytes, and its right checksum."""
    chunk = b"IHDR" + png[16:21]
    return png[:8] + struct.pack(">I", 5) + chunk + struct.pack(">I", zlib.crc32(chunk))


def text(png: bytes) -> bytes:
    return b"no picture" + png


def empty(png: bytes) -> bytes:
    return png[:0]


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        flipped,
        text,
        empty,
        short_header,
    ],
)
def test_a_damaged_picture_is_named(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    file = write_classes(tmp_path, ant=3, bee=3) / "bee" / "001.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=f"cannot read image {file}") as refused:
        load(tmp_path)
    one_line(refused.value)


@pytest.mark.parametrize("image_size", [None, 8])
@pytest.mark.parametrize("kind", ["missing", "file", "empty", "no classes", "flat"])
def test_a_path_without_classes_of_pictures_is_refused(
    kind: str, image_size: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "pictures"
    if kind == "file":
        path.write_text("no folder")
    elif kind == "empty":
        path.mkdir()
    elif kind == "no classes":
        (path / "ant").mkdir(parents=True)
        (path / "bee").mkdir()
    elif kind == "flat":
        path.mkdir()
        picture(0).save(path / "000.png")
    told_of = f"cannot read images under {path}: "
    if kind == "missing":
        told_of = f"{path} does not exist: "
    with pytest.raises(DataError, match=told_of) as told:
        load(path, image_size)
    one_line(told.value)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    (write_classes(tmp_path, ant=3, bee=3) / "cat").mkdir()
    with pytest.raises(DataError, match="cat"):
        load(tmp_path)


def test_a_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2 classes, found 1"):
        load(write_classes(tmp_path, ant=6))


def test_a_folder_may_be_relative_and_its_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "pictures", ant=2, bee=2)
    monkeypatch.chdir(tmp_path)
    name = get_dataset("folder:pictures").name
    monkeypatch.chdir(os.sep)
    assert get_dataset(name).class_names == ("ant", "bee")


def test_folder_without_a_path_is_refused() -> None:
    with pytest.raises(OptionError, match="folder:PATH"):
        get_dataset("folder")
