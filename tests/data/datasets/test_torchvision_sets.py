"""Data sets that torchvision reads."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_root

from dd_plugins import get_dataset
from dd_plugins.errors import DataError, OptionError

TORCHVISION = ["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "stl10"]


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text.isprintable(), f"not one printable line: {text!r}"
    return text


@pytest.mark.parametrize(
    ("name", "shape", "count", "first_label", "mirror", "preprocessing"),
    [
        ("mnist", (1, 28, 28), 60_000, 5, False, "standardize"),
        ("fashion-mnist", (1, 28, 28), 60_000, 9, False, "standardize"),
        ("cifar10", (3, 32, 32), 50_000, 6, True, "zca"),
    ],
)
def test_torchvision_data_sets_are_read_whole(
    name: str,
    shape: tuple[int, int, int],
    count: int,
    first_label: int,
    mirror: bool,
    preprocessing: str,
) -> None:
    data = get_dataset(name, data_root=data_root(name))
    assert (data.name, data.image_shape, data.num_classes) == (name, shape, 10)
    assert (data.mirror, data.preprocessing) == (mirror, preprocessing)
    held_out = torch.bincount(data.validation.labels)
    all_labels = held_out + torch.bincount(data.train.labels)
    assert int(all_labels.sum()) == count
    assert torch.equal(held_out, all_labels * 5_000 // count)
    assert data.train.images.dtype == torch.uint8
    assert data.train_indices[0] == 0, "the first image happens to be kept"
    assert data.train.labels[0] == first_label
    # Channels come first and no axis is mixed up: neighbouring pixels are alike.
    images = data.train.images[:500].float()
    across = (images[..., 1:] - images[..., :-1]).abs().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    assert max(across, down) < 0.6 * images.std()
    test = data.read_test()
    assert torch.bincount(test.labels).tolist() == (
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        if name == "mnist"
        else [1000] * 10
    )


@pytest.mark.parametrize("name", TORCHVISION)
def test_without_a_data_root_the_options_are_told(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DD_DATA", raising=False)
    with pytest.raises(OptionError, match="--data-root") as refused:
        get_dataset(name)
    assert "--download" in one_line(refused.value)
    assert repr(name) in str(refused.value)


def test_a_missing_folder_of_data_sets_is_told(tmp_path: Path) -> None:
    root = tmp_path / "dta"
    for name in ("mnist", "cifar100", "cub200", "imagenet64", "cifar10.1"):
        with pytest.raises(DataError, match=f"the folder {root} does not exist; check"):
            get_dataset(name, data_root=root, image_size=8)
    assert not root.exists()


@pytest.mark.parametrize("name", TORCHVISION)
def test_missing_data_names_the_folder_and_how_to_fetch_it(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="pass --download to fetch it") as refused:
        get_dataset(name, data_root=tmp_path)
    assert f"{name!r} under {tmp_path}" in one_line(refused.value)
    assert "download=True" not in one_line(refused.value)
    assert list(tmp_path.iterdir()) == [], "nothing is written unless asked"


def write_mnist(root: Path, count: int = 40) -> Path:
    """Write a data set in MNIST's format; return the folder of its files."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = np.arange(count * 16, dtype=np.uint8).reshape(count, 4, 4)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(
                f">{array.ndim}i", *array.shape
            )
            (raw / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())
    return raw


def test_data_root_is_that_of_the_environment_unless_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_DATA", str(tmp_path / "there"))
    write_mnist(tmp_path / "there")
    assert get_dataset("mnist").image_shape == (1, 4, 4)
    with pytest.raises(DataError, match=f"folder {tmp_path / 'other'} does not exist"):
        get_dataset("mnist", data_root=tmp_path / "other")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "length",
    [0, 3, 10, 40, -1],
)
def test_truncated_data_is_refused_in_one_line(
    name: str, length: int, tmp_path: Path
) -> None:
    file = write_mnist(tmp_path) / name
    assert get_dataset("mnist", data_root=tmp_path).image_shape == (1, 4, 4)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match=r"cannot read data set 'mnist' under") as told:
        get_dataset("mnist", data_root=tmp_path)
    one_line(told.value)


def test_the_test_files_are_left_alone_until_the_test_set_is_read(
    tmp_path: Path,
) -> None:
    raw = write_mnist(tmp_path)
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"")
    data = get_dataset("mnist", data_root=tmp_path)
    with pytest.raises(DataError, match="cannot read data set 'mnist'"):
        data.read_test()


def test_damaged_cifar_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "batches.meta"]:
        (folder / name).write_bytes(b"\x80damaged")
    with pytest.raises(DataError, match="cannot read data set 'cifar10'") as refused:
        get_dataset("cifar10", data_root=tmp_path)
    one_line(refused.value)


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a small data set in SVHN's format, with its sums."""
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    published = dict(SVHN.split_list)
    for number, split in enumerate(("train", "test")):
        file = root / f"{split}_32x32.mat"
        images = np.zeros((32, 32, 3, 20), dtype=np.uint8)
        images[0, 1, 2] = np.arange(20) + number
        labels = (np.arange(20) % 10 + 1)[:, None]  # 10 stands for the digit 0
        savemat(file, {"X": images, "y": labels})
        sums = hashlib.md5(file.read_bytes()).hexdigest()
        published[split] = ["no address", file.name, sums]
    monkeypatch.setattr(SVHN, "split_list", published)


def test_svhn_is_read_with_its_channels_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path, monkeypatch)
    data = get_dataset("svhn", data_root=tmp_path)
    assert (data.image_shape, data.num_classes) == ((3, 32, 32), 10)
    assert (data.mirror, data.preprocessing) == (False, "zca")
    assert data.train.images[:, 2, 0, 1].tolist() == list(range(20))
    assert data.train.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert data.read_test().images[:, 2, 0, 1].tolist() == list(range(1, 21))
    small = get_dataset("svhn", data_root=tmp_path, image_size=8)
    assert (small.image_shape, small.image_size) == ((3, 8, 8), 8)
    assert small.read_test().images.shape[1:] == (3, 8, 8)


def test_a_damaged_svhn_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path, monkeypatch)
    (tmp_path / "train_32x32.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot read data set 'svhn' under") as told:
        get_dataset("svhn", data_root=tmp_path)
    one_line(told.value)


def test_stl10_is_read_upright_and_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import STL10

    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = np.zeros((20, 3, 96, 96), dtype=np.uint8)
    images[:, 1, 5, 7] = np.arange(20)  # row 5, column 7; the files hold columns
    listed = []
    for split in ("train", "test"):
        columns_first = images.transpose(0, 1, 3, 2).tobytes()
        (folder / f"{split}_X.bin").write_bytes(columns_first)
        labels = (np.arange(20) % 10 + 1).astype(np.uint8)
        (folder / f"{split}_y.bin").write_bytes(labels.tobytes())
        files = [folder / f"{split}_{part}.bin" for part in "Xy"]
        listed.append(
            [[f.name, hashlib.md5(f.read_bytes()).hexdigest()] for f in files]
        )
    names = [
        "airplane",
        "bird",
        "car",
        "cat",
        "deer",
        "dog",
        "horse",
        "monkey",
        "ship",
        "truck",
    ]
    (folder / "class_names.txt").write_text("\n".join(names))
    monkeypatch.setattr(STL10, "train_list", listed[0])
    monkeypatch.setattr(STL10, "test_list", listed[1])
    data = get_dataset("stl10", data_root=tmp_path)
    assert (data.image_shape, list(data.class_names)) == ((3, 96, 96), names)
    assert data.train.images[:, 1, 5, 7].tolist() == list(range(20))
    assert data.preprocessing == "standardize"
    small = get_dataset("stl10", data_root=tmp_path, image_size=32)
    assert (small.image_shape, small.preprocessing) == ((3, 32, 32), "zca")


@pytest.mark.parametrize(("split", "classes"), [("letters", 26), ("balanced", 47)])
def test_emnist_stands_upright_and_is_numbered_from_0(
    split: str, classes: int, tmp_path: Path
) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    first = 1 if split == "letters" else 0
    for part in ("train", "test"):
        images = np.zeros((classes, 28, 28), dtype=np.uint8)
        images[:, 3, 9] = np.arange(classes)  # published with rows for columns
        labels = np.arange(first, first + classes, dtype=np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(
                f">{array.ndim}i", *array.shape
            )
            file = raw / f"emnist-{split}-{part}-{name}-ubyte"
            file.write_bytes(header + array.tobytes())
    data = get_dataset(f"emnist:{split}", data_root=tmp_path)
    assert (data.name, data.num_classes) == (f"emnist:{split}", classes)
    assert data.class_names[0] == ("a" if split == "letters" else "0")
    assert data.train.labels.tolist() == list(range(classes))
    assert data.train.images[:, 0, 9, 3].tolist() == list(range(classes))
    assert data.read_test().labels.tolist() == list(range(classes))


@pytest.mark.parametrize("name", ["emnist", "emnist:greek"])
def test_a_split_of_emnist_must_be_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="emnist:balanced, emnist:letters"):
        get_dataset(name, data_root=tmp_path)


def test_cifar100_is_read_from_a_file_of_arrays(tmp_path: Path) -> None:
    images = np.zeros((200, 32, 32, 3), dtype=np.uint8)
    images[:, 1, 2, 0] = np.arange(200)
    labels = np.arange(200) % 100
    np.savez(
        tmp_path / "cifar100.npz",
        class_names=np.array([f"class {n}" for n in range(100)]),
        train_images=images,
        train_labels=labels,
        test_images=images[:100],
        test_labels=labels[:100],
    )
    data = get_dataset("cifar100", data_root=tmp_path)
    assert (data.name, data.mirror, data.preprocessing) == ("cifar100", True, "zca")
    assert data.class_names[99] == "class 99"
    assert data.train.images[:, 0, 1, 2].tolist() == list(range(200))
    assert len(data.read_test().labels) == 100
