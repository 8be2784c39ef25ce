"""Folders of images as people have them: splits, links, and what is no image."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_code
from PIL import Image
from torchvision.datasets import ImageFolder

from dd_plugins import RealData, distill, evaluate, get_dataset
from dd_plugins.data.image_folders import find_images, find_splits
from dd_plugins.errors import DataError, DDWarning

RANDOM = np.random.default_rng(0)


def write(folder: Path, *names: str, count: int = 6) -> Path:
    """Write random images of 8x8 pixels for each class."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def load(folder: Path) -> RealData:
    return get_dataset(f"folder:{folder}")


def total(data: RealData) -> int:
    return sum(
        len(part.labels) for part in (data.train, data.validation, data.read_test())
    )


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("trainset", "testset"),
        ("train-images", "test-images"),
        ("train2017", "val2017"),
        ("train", "val"),
        ("train", "valid"),
        ("Train", "Validation"),
    ],
)
def test_splits_are_known_by_their_usual_names(
    tmp_path: Path, train: str, test: str
) -> None:
    write(tmp_path / train, "cat", "dog")
    write(tmp_path / test, "cat", "dog", count=2)
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert len(data.read_test().labels) == 4
    assert total(data) == 16


def test_a_test_split_without_classes_leaves_the_place_to_val(tmp_path: Path) -> None:
    write(tmp_path / "train", "cat", "dog")
    write(tmp_path / "val", "cat", "dog", count=2)
    write(tmp_path, "test")
    with pytest.warns(DDWarning, match="'test' not read; 'val' is the test set"):
        data = load(tmp_path)
    assert len(data.read_test().labels) == 4


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_a_validation_split_gives_the_validation_images(
    name: str, tmp_path: Path
) -> None:
    for split, count in (("train", 20), (name, 3), ("test", 2)):
        write(tmp_path / split, "cat", "dog", count=count)
    data = load(tmp_path)
    parts = (data.train, data.validation, data.read_test())
    assert [len(each.labels) for each in parts] == [40, 6, 4]


def test_a_validation_split_of_other_classes_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train", "cat", "dog", count=20)
    write(tmp_path / "test", "cat", "dog", count=2)
    write(tmp_path / "val", "emu")
    with pytest.warns(DDWarning, match="'val' not read; 'test' is the test set"):
        assert len(load(tmp_path).validation.labels) == 4


@pytest.mark.parametrize(
    "names", [("fold1", "fold2"), ("a", "b", "c"), ("2019", "2020")]
)
def test_folders_that_look_like_splits_are_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        write(tmp_path / name, "cat", "dog")
    with pytest.raises(
        DataError, match="look like splits; call them 'train' and 'test'"
    ):
        load(tmp_path)


def test_splits_without_class_folders_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "Train", "Test")
    with pytest.raises(DataError, match="expected class folders in them, found none"):
        load(tmp_path)


def test_two_training_splits_are_refused(tmp_path: Path) -> None:
    for name in ("train", "Training", "test"):
        write(tmp_path / name, "cat", "dog")
    with pytest.raises(DataError, match="at most one train split, got 'Training' and"):
        load(tmp_path)


def test_a_class_may_be_called_as_a_split(tmp_path: Path) -> None:
    assert load(write(tmp_path, "bus", "train", "test")).num_classes == 3


def test_classes_of_the_test_split_are_compared_at_once(tmp_path: Path) -> None:
    write(tmp_path / "train", "ant", "cat", "dog")
    write(tmp_path / "test", "ant", "emu")
    told = "only train has 'cat', 'dog' and only test has 'emu'"
    with pytest.raises(DataError, match=told):
        load(tmp_path)


def test_a_test_split_without_classes_is_found_at_once(tmp_path: Path) -> None:
    write(tmp_path / "train", "ant", "cat")
    write(tmp_path, "test")
    with pytest.raises(DataError, match="test holds no class folders"):
        load(tmp_path)


def test_names_are_compared_in_nfc(tmp_path: Path) -> None:
    name = "café"
    composed, apart = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    write(tmp_path / "train", composed, "tea")
    write(tmp_path / "test", apart, "tea", count=2)
    data = load(tmp_path)
    assert data.class_names == (composed, "tea")
    assert len(data.read_test().labels) == 4


def test_hidden_and_system_files_are_no_images(tmp_path: Path) -> None:
    write(tmp_path, "ant", "bee")
    write(tmp_path, "__MACOSX", ".cache", "@eaDir", "lost+found")
    for name in ("._0.png", ".hidden.png", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "ant" / name).write_bytes(b"no image")
    data = load(tmp_path)
    assert data.class_names == ("ant", "bee")
    assert total(data) == 12


def test_all_that_pillow_opens_is_read(tmp_path: Path) -> None:
    write(tmp_path, "ant", "bee", count=0)
    forms = {"gif": "GIF", "jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000"}
    forms |= {"PNG": "PNG", "webp": "WEBP", "bmp": "BMP", "avif": "AVIF", "tga": "TGA"}
    for name in ("ant", "bee"):
        for ending, form in forms.items():
            image = Image.fromarray(
                RANDOM.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            )
            image.save(tmp_path / name / f"x.{ending}", format=form)
    assert total(load(tmp_path)) == 2 * len(forms)


def test_what_is_passed_over_is_counted_and_told_once(tmp_path: Path) -> None:
    write(tmp_path, "ant", "bee")
    for name in ("notes.txt", "more.txt", "film.mp4", "plain"):
        (tmp_path / "ant" / name).write_text("x")
    (tmp_path / "labels.csv").write_text("x")  # beside the classes: no image is lost
    Image.new("RGB", (8, 8)).save(tmp_path / "loose.png")
    os.mkfifo(tmp_path / "bee" / "pipe.png")
    (tmp_path / "bee" / "gone.png").symlink_to("nowhere.png")
    with pytest.warns(DDWarning) as told:
        assert total(load(tmp_path)) == 12
    assert len(told) == 1
    text = str(told[0].message)
    assert "7 files passed over" in text
    for part in (
        "2 ending in '.txt'",
        "1 ending in '.mp4'",
        "1 without an ending",
        "1 images in",
    ):
        assert part in text


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    write(tmp_path, "ant", "bee")
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow" / "0.txt").write_text("x")
    with pytest.raises(DataError, match="found none in 'cow'; 1 files passed over"):
        load(tmp_path)


def test_links_are_followed_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "ant", "bee", "cow")
    outside = write(tmp_path / "outside", "more", count=3)
    (folder / "ant" / "up").symlink_to("../..")
    (folder / "ant" / "here").symlink_to(".")
    (folder / "ant" / "beside").symlink_to("../bee")
    (folder / "bee" / "one").symlink_to(outside / "more")
    (folder / "bee" / "two").symlink_to(outside / "more")
    (folder / "cow" / "again.png").symlink_to("0.png")
    with pytest.warns(DDWarning, match="links to images"):
        found = find_images(folder)
    counts = torch.bincount(torch.tensor(found.labels)).tolist()
    assert counts == [6, 6 + 3, 6], "one of two links to a folder outside"
    assert len({file.resolve() for file, _ in found.samples}) == sum(counts)


def test_a_class_may_be_a_link(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", "ant", "bee")
    (tmp_path / "set").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).symlink_to(outside / name)
    assert total(load(tmp_path / "set")) == 12


@pytest.mark.parametrize("argument", ["~nosuchuser/x", "loop", "nowhere", "file.txt"])
def test_a_path_that_is_no_folder_is_refused_in_one_line(
    tmp_path: Path, argument: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file.txt").write_text("x")
    path = argument if argument.startswith("~") else str(tmp_path / argument)
    told = "does not exist: give a path" if argument == "nowhere" else "cannot read"
    with pytest.raises(DataError, match=told) as refused:
        get_dataset(f"folder:{path}")
    assert str(refused.value).isprintable()


def test_a_relative_folder_may_be_in_the_folder_of_data_sets(tmp_path: Path) -> None:
    write(tmp_path / "sets" / "mine", "ant", "bee")
    data = get_dataset("folder:mine", data_root=tmp_path / "sets")
    assert data.name == f"folder:{tmp_path / 'sets' / 'mine'}"


@pytest.mark.parametrize(("count", "tested"), [(2, 1), (3, 1), (4, 1), (5, 1), (10, 2)])
def test_small_classes_are_tested(tmp_path: Path, count: int, tested: int) -> None:
    write(tmp_path, "common", count=20)
    write(tmp_path, "rare", count=count)
    assert torch.bincount(load(tmp_path).read_test().labels).tolist() == [4, tested]


def test_a_class_of_one_image_is_named(tmp_path: Path) -> None:
    write(tmp_path, "common", count=20)
    write(tmp_path, "rare", count=1)
    with pytest.warns(DDWarning, match="only image of class 'rare' is trained on"):
        data = load(tmp_path)
    assert torch.bincount(data.read_test().labels, minlength=2).tolist() == [4, 0]


def test_without_any_test_image_nothing_is_trained(tmp_path: Path) -> None:
    write(tmp_path, "ant", "bee", count=1)
    with pytest.warns(DDWarning, match="2 such classes"):
        data = load(tmp_path)
    with pytest.raises(DataError, match="no test set"):
        data.check_test()


def test_images_come_in_the_order_in_which_they_always_came(tmp_path: Path) -> None:
    folder = write(tmp_path, "b", "a", "c/d", "c", "c-d", count=0)
    for number, name in enumerate(("b", "a", "c", "c/d", "c/d/e", "c/d-x", "c-d")):
        (folder / name).mkdir(exist_ok=True)
        for other in ("z", "A", "10", "9"):
            Image.new("RGB", (2, 2), (number, 0, 0)).save(
                folder / name / f"{other}.png"
            )
    expected = ImageFolder(str(folder))
    found = find_images(folder)
    assert found.classes == expected.classes
    assert [(str(file), label) for file, label in found.samples] == expected.samples


def test_a_folder_of_classes_has_no_splits(tmp_path: Path) -> None:
    assert find_splits(write(tmp_path, "ant", "bee")).test is None


def test_evaluating_looks_at_the_sizes_of_test_files_first(tmp_path: Path) -> None:
    write(tmp_path / "train", "ant", "bee")
    write(tmp_path / "test", "ant", "bee", count=3)
    Image.new("RGB", (9, 8)).save(tmp_path / "test" / "bee" / "2.png")
    data = load(tmp_path)
    distilled = distill(data, "random", steps=1, network="conv(width=2, depth=2)")
    trained: list[object] = []
    with pytest.raises(DataError, match=r"bee/2.png is 8x9, others are 8x8"):
        evaluate(
            distilled,
            data=data,
            repeats=1,
            on_progress=lambda *what: trained.append(what),
        )
    assert trained == []


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    folder = write(tmp_path, "ant", "bee")
    for name in ("x", "y"):
        (folder / "ant" / name).symlink_to(".")
        (folder / "bee" / name).symlink_to("../..")
    code = f"import dd_plugins; dd_plugins.get_dataset('folder:{folder}/.')"
    done = run_code(code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
