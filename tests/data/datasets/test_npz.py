"""Files of numpy arrays, in the layouts of MedMNIST and Keras."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dd_plugins import get_dataset
from dd_plugins.errors import DataError, DDWarning, OptionError


def images(count: int, *shape: int, first: int = 0) -> np.ndarray:
    made = np.zeros((count, *shape), dtype=np.uint8)
    made[:, 1, 2] = (first + np.arange(count)).reshape(-1, *[1] * (len(shape) - 2))
    return made


def medmnist(shape: tuple[int, ...] = (28, 28, 3)) -> dict[str, Any]:
    return {
        f"{split}_{part}": array
        for split, count, first in (("train", 20, 0), ("val", 6, 100), ("test", 4, 200))
        for part, array in (
            ("images", images(count, *shape, first=first)),
            ("labels", (np.arange(count) % 2)[:, None].astype(np.uint8)),
        )
    }


def write(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((28, 28), (1, 28, 28)),
        ((28, 28, 3), (3, 28, 28)),
        ((28, 28, 1), (1, 28, 28)),
    ],
)
def test_the_splits_of_medmnist_are_kept(
    shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path
) -> None:
    path = write(tmp_path, **medmnist(shape))
    data = get_dataset(f"npz:{path}")
    assert (data.name, data.image_shape) == (f"npz:{path}", expected)
    assert (data.class_names, data.mirror) == (("0", "1"), False)
    assert data.train.images[:, 0, 1, 2].tolist() == list(range(20))
    assert data.train.labels.tolist() == [0, 1] * 10
    assert data.validation.images[:, 0, 1, 2].tolist() == list(range(100, 106))
    test = data.read_test()
    assert test.images[:, 0, 1, 2].tolist() == [200, 201, 202, 203]
    assert test.labels.tolist() == [0, 1, 0, 1]


def test_the_names_of_keras_are_known(tmp_path: Path) -> None:
    made = images(40, 28, 28)
    labels = np.arange(40, dtype=np.uint8) % 4
    path = write(
        tmp_path,
        x_train=made,
        y_train=labels,
        x_test=made[:8] / np.float32(255),
        y_test=labels[:8],
        class_names=np.array(["ant", "bee", "cat", "dog"]),
    )
    data = get_dataset(f"npz:{path.name}", data_root=tmp_path)
    assert data.class_names == ("ant", "bee", "cat", "dog")
    assert (len(data.train.labels), len(data.validation.labels)) == (36, 4)
    assert data.read_test().images.dtype == torch.float32


def test_without_test_images_every_fifth_of_a_class_becomes_one(tmp_path: Path) -> None:
    path = write(
        tmp_path, train_images=images(20, 8, 8), train_labels=np.arange(20) // 10
    )
    data = get_dataset(f"npz:{path}")
    test = data.read_test()
    assert test.images[:, 0, 1, 2].tolist() == [4, 9, 14, 19]
    assert not set(data.train.images[:, 0, 1, 2].tolist()) & {4, 9, 14, 19}
    assert len(data.train.labels) + len(data.validation.labels) == 16


def test_an_absurd_label_is_refused_before_a_test_set_is_cut(tmp_path: Path) -> None:
    labels = np.array([0, 1] * 9 + [0, 10**15])
    path = write(tmp_path, train_images=images(20, 8, 8), train_labels=labels)
    with pytest.raises(DataError, match=f"labels go up to {10**15}, .* at most 19"):
        get_dataset(f"npz:{path}")


def test_images_are_resized(tmp_path: Path) -> None:
    data = get_dataset(f"npz:{write(tmp_path, **medmnist())}", image_size=14)
    assert (data.image_shape, data.image_size) == ((3, 14, 14), 14)
    assert data.validation.images.shape[1:] == (3, 14, 14)
    assert data.read_test().images.shape[1:] == (3, 14, 14)


def test_test_images_are_not_read_before_they_are_asked_for(tmp_path: Path) -> None:
    arrays = medmnist()
    arrays["test_images"] = np.array([{"a": 1}])  # an object, which is never unpickled
    data = get_dataset(f"npz:{write(tmp_path, **arrays)}")
    with pytest.raises(DataError, match="cannot read arrays of") as told:
        data.read_test()
    assert str(told.value).isprintable()


def test_a_class_of_one_image_is_told(tmp_path: Path) -> None:
    path = write(
        tmp_path, train_images=images(7, 8, 8), train_labels=[0, 0, 0, 0, 0, 0, 1]
    )
    with pytest.warns(DDWarning, match="the only image of class '1' is trained on"):
        get_dataset(f"npz:{path}")


@pytest.mark.filterwarnings("ignore:.*the only image of class")
def test_one_image_of_each_class_gives_no_test_set(tmp_path: Path) -> None:
    path = write(tmp_path, train_images=images(2, 8, 8), train_labels=[0, 1])
    with pytest.raises(DataError, match="expected a test split, or at least two"):
        get_dataset(f"npz:{path}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"train_labels": None}, "expected labels in 'train_labels', found none"),
        ({"test_labels": None}, "expected labels in 'test_labels', found none"),
        ({"train_images": None}, "expected arrays 'train_images' and 'train_labels'"),
        ({"train_labels": np.zeros(3, int)}, r"train split: labels must have shape"),
        ({"train_labels": np.zeros((20, 14), int)}, "multi-label data are not"),
        ({"train_images": images(20, 9, 28, 28)}, "pass channels="),
        ({"train_images": images(20, 8, 8).astype(int)}, "must be uint8 or floating"),
        ({"train_images": images(20, 8, 8) * 1.5}, r"must be in \[0, 1\]"),
        ({"val_images": images(6, 8, 8)}, "validation images must have the shape"),
        ({"val_labels": np.full(6, 7)}, "validation labels must be at most 1"),
        ({"x_test": images(4, 28, 28, 3)}, "'x_test' beside"),
        ({"val_images": None}, "'val_labels' beside"),
        ({"class_names": np.array(["one"])}, "expected 2 class names, got 1"),
    ],
)
def test_a_file_of_other_arrays_is_refused_in_one_line(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    arrays = {k: v for k, v in {**medmnist(), **change}.items() if v is not None}
    with pytest.raises(DataError, match=told) as refused:
        get_dataset(f"npz:{write(tmp_path, **arrays)}")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "one array", "folder"])
def test_a_damaged_file_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = write(tmp_path, **medmnist())
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("no archive")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-400])
    elif damage == "one array":
        with path.open("wb") as file:
            np.save(file, np.arange(3))
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(
        DataError, match="does not exist" if damage == "missing" else "cannot read"
    ) as refused:
        get_dataset(f"npz:{path}")
    assert str(refused.value).isprintable()


def test_npz_without_a_path_is_refused() -> None:
    with pytest.raises(OptionError, match=r"npz:FILE\.npz"):
        get_dataset("npz")
