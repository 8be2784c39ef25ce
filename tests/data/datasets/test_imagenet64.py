"""ImageNet-1K at 64x64: batches of arrays, in the layout of its archives."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dd_plugins import RealData, get_dataset
from dd_plugins.errors import DataError

CLASSES = 1_000


def batch(labels: np.ndarray, first: int) -> bytes:
    """Return a file of a batch; image n has (first + n) % 256 in its second row."""
    data = np.zeros((len(labels), 3, 64, 64), dtype=np.uint8)
    data[:, 0, 1, 2] = (first + np.arange(len(labels))) % 256
    file = io.BytesIO()
    np.savez(
        file, data=data.reshape(len(labels), -1), labels=labels, mean=data[0].ravel()
    )
    return file.getvalue()


def published() -> dict[str, dict[str, bytes]]:
    """Return the members of each archive: ten images of training batches, and more."""
    labels = np.arange(1, CLASSES + 1)
    batches = {
        f"train_data_batch_{n}.npz": batch(
            labels[100 * n - 100 : 100 * n], 100 * n - 100
        )
        for n in range(1, 10)
    }
    last = np.concatenate([labels[900:], labels[:20]])
    batches["train_data_batch_10.npz"] = batch(last, 900)
    names = list(batches)
    return {
        "Imagenet64_train_part1_npz.zip": {name: batches[name] for name in names[:5]},
        "Imagenet64_train_part2_npz.zip": {name: batches[name] for name in names[5:]},
        "Imagenet64_val_npz.zip": {"val_data.npz": batch(labels[::-1], 3)},
    }


def write(root: Path, *, zipped: bool) -> None:
    for archive, members in published().items():
        if zipped:
            with zipfile.ZipFile(root / archive, "w") as made:
                for name, content in members.items():
                    made.writestr(name, content)
        else:
            folder = root / Path(archive).stem
            folder.mkdir()
            for name, content in members.items():
                (folder / name).write_bytes(content)


def check(data: RealData) -> None:
    assert (data.name, data.num_classes) == ("imagenet64", CLASSES)
    assert (data.image_shape, data.mirror) == ((3, 64, 64), True)
    assert data.train.labels.tolist() == [*range(CLASSES), *range(20)]
    images = data.train.images[torch.arange(1_015, 1_020)]
    assert images[:, 0, 1, 2].tolist() == [n % 256 for n in range(1_015, 1_020)]
    test = data.read_test()
    assert test.labels.tolist() == list(range(CLASSES))[::-1]
    assert test.images[:3, 0, 1, 2].tolist() == [3, 4, 5]


@pytest.mark.parametrize("zipped", [True, False])
def test_batches_are_unpacked_once_and_joined_in_order(
    zipped: bool, tmp_path: Path
) -> None:
    write(tmp_path, zipped=zipped)
    (tmp_path / "map_clsloc.txt").write_text(
        "n02119789 1 kit_fox\nn02100735 2 setter\n"
    )
    data = get_dataset("imagenet64", data_root=tmp_path)
    check(data)
    assert data.class_names[:3] == ("kit fox", "setter", "3")
    arrays = list((tmp_path / "imagenet64-arrays").glob("*-data.npy"))
    assert len(arrays) == 11
    if zipped:  # the archives are needed no longer
        for archive in published():
            (tmp_path / archive).unlink()
        check(get_dataset("imagenet64", data_root=tmp_path))


def test_half_of_the_archives_are_refused_and_not_kept(tmp_path: Path) -> None:
    write(tmp_path, zipped=True)
    second = tmp_path / "Imagenet64_train_part2_npz.zip"
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(DataError, match="train_data_batch_10, train_data_batch_6, "):
        get_dataset("imagenet64", data_root=tmp_path)
    second.write_bytes(content)
    check(get_dataset("imagenet64", data_root=tmp_path))


def test_images_are_made_smaller(tmp_path: Path) -> None:
    write(tmp_path, zipped=True)
    data = get_dataset("imagenet64", data_root=tmp_path, image_size=8)
    assert (data.image_shape, data.image_size) == ((3, 8, 8), 8)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no archive", "cannot unpack"),
        (batch(np.arange(5), 0), "expected labels from 1 to 1000, got 0 to 4"),
        (batch(np.array([1, 1_001]), 0), "expected labels from 1 to 1000, got 1 to"),
    ],
)
def test_a_batch_of_another_layout_is_refused(
    content: bytes, told: str, tmp_path: Path
) -> None:
    (tmp_path / "train_data_batch_1.npz").write_bytes(content)
    with pytest.raises(DataError, match=told) as refused:
        get_dataset("imagenet64", data_root=tmp_path)
    assert str(refused.value).isprintable()
    assert [each.name for each in tmp_path.iterdir()] == ["train_data_batch_1.npz"]


@pytest.mark.parametrize("download", [False, True])
def test_missing_archives_are_named(download: bool, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Imagenet64_val_npz\.zip") as refused:
        get_dataset("imagenet64", data_root=tmp_path, download=download)
    assert ("login" in str(refused.value)) == download
