"""CIFAR-10.1: CIFAR-10 with new test images."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from dd_plugins import get_dataset
from dd_plugins.data.datasets import cifar10_1
from dd_plugins.errors import DataError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small CIFAR-10 and CIFAR-10.1, with their sums."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.arange(40, dtype=np.uint8)[:, None].repeat(3072, 1)
    content = {"data": rows, "labels": [n % 10 for n in range(40)]}

    def written(name: str, found: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(found))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    for attribute, name in (
        ("train_list", "data_batch_1"),
        ("test_list", "test_batch"),
    ):
        monkeypatch.setattr(CIFAR10, attribute, [written(name, content)])
    names = {"label_names": [f"class {n}" for n in range(10)]}
    file, md5 = written("batches.meta", names)
    meta = {"filename": file, "key": "label_names", "md5": md5}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    images = np.zeros((20, 32, 32, 3), dtype=np.uint8)
    images[:, 3, 4, 1] = np.arange(20)
    np.save(tmp_path / "cifar10.1_v6_data.npy", images)
    labels = tmp_path / "cifar10.1_v6_labels.npy"
    np.save(labels, (np.arange(20) % 10).astype(np.int32))
    md5 = hashlib.md5(labels.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10_1, "_LABELS_MD5", md5)
    return tmp_path


def test_it_is_cifar10_with_other_test_images(root: Path) -> None:
    data = get_dataset("cifar10.1", data_root=root)
    cifar10 = get_dataset("cifar10", data_root=root)
    assert (data.name, data.fingerprint) == ("cifar10.1", cifar10.fingerprint)
    test = data.read_test()
    assert test.images[:, 1, 3, 4].tolist() == list(range(20))
    assert test.labels.tolist() == list(range(10)) * 2
    assert len(cifar10.read_test().labels) == 40
    small = get_dataset("cifar10.1", data_root=root, image_size=16)
    assert small.read_test().images.shape[1:] == small.image_shape == (3, 16, 16)


def test_a_missing_file_is_named(root: Path) -> None:
    (root / "cifar10.1_v6_labels.npy").unlink()
    told = r"expected cifar10\.1_v6_labels\.npy; pass --download"
    with pytest.raises(DataError, match=told):
        get_dataset("cifar10.1", data_root=root)


@pytest.mark.parametrize(
    ("name", "told"),
    [("data", "cannot read"), ("labels", "must be the published file")],
)
def test_a_damaged_file_is_refused_when_it_is_read(
    name: str, told: str, root: Path
) -> None:
    (root / f"cifar10.1_v6_{name}.npy").write_bytes(b"damaged")
    data = get_dataset("cifar10.1", data_root=root)
    with pytest.raises(DataError, match=told) as refused:
        data.read_test()
    assert str(refused.value).isprintable()
