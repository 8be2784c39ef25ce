"""Data sets of Hugging Face ``datasets``, saved on disk or in memory."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dd_plugins
from dd_plugins import RealData, get_dataset
from dd_plugins.errors import DataError, DDWarning, MissingExtraError, OptionError

NAMES = ["ant", "bee"]


def made(
    count: int, *, first: int = 0, image: str = "image", label: str = "label"
) -> Any:
    """Return a ``Dataset`` of pictures whose colour is their number."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageColumn

    pictures = [Image.new("RGB", (10, 8), (first + n, 0, 0)) for n in range(count)]
    return Dataset.from_dict(
        {image: pictures, label: [n % 2 for n in range(count)]},
        features=Features({image: ImageColumn(), label: ClassLabel(names=NAMES)}),
    )


def splits(**counts: int) -> Any:
    from datasets import DatasetDict

    return DatasetDict(
        {name: made(n, first=50 * k) for k, (name, n) in enumerate(counts.items())}
    )


def colours(data: RealData) -> list[int]:
    return data.train.images[:, 0, 0, 0].tolist()


def test_splits_that_were_saved_are_read_again(tmp_path: Path) -> None:
    splits(train=20, validation=6, test=4, unsupervised=2).save_to_disk(
        tmp_path / "set"
    )
    data = get_dataset(f"hf:{tmp_path / 'set'}")
    assert (data.name, data.class_names) == (f"hf:{tmp_path / 'set'}", ("ant", "bee"))
    assert (data.image_shape, colours(data)) == ((3, 8, 10), list(range(20)))
    assert data.validation.images[:, 0, 0, 0].tolist() == list(range(50, 56))
    assert data.read_test().images[:, 0, 0, 0].tolist() == list(range(100, 104))
    small = get_dataset("hf:set", data_root=tmp_path, image_size=4)
    assert (small.image_shape, small.image_size) == ((3, 4, 4), 4)


def test_a_validation_split_alone_is_the_test_set(tmp_path: Path) -> None:
    splits(train=20, validation=6).save_to_disk(tmp_path)
    data = get_dataset(f"hf:{tmp_path}")
    assert len(data.read_test().labels) == 6
    assert (len(data.train.labels), len(data.validation.labels)) == (18, 2)


def test_one_dataset_gives_a_fifth_to_the_test_set(tmp_path: Path) -> None:
    made(20, image="picture", label="kind").save_to_disk(tmp_path)
    data = get_dataset(f"hf:{tmp_path}")
    assert data.read_test().images[:, 0, 0, 0].tolist() == [8, 9, 18, 19]
    assert data.class_names == ("ant", "bee")


def test_what_is_in_memory_is_taken_as_it_is() -> None:
    options: dict[str, Any] = {"network": "mlp(width=4)", "device": "cpu", "steps": 1}
    whole = dd_plugins.distill(made(20), "random", **options)
    assert whole.header.class_names == NAMES
    parts = splits(train=20, test=6)
    distilled = dd_plugins.distill(parts, "random", **options)
    assert distilled.header.class_names == NAMES
    found = dd_plugins.evaluate(
        distilled, "mlp(width=4)", data=parts, repeats=1, device="cpu"
    )
    assert 0 <= found.networks[0].mean <= 1


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"image": "sound"}, "expected one column of images"),
        ({"label": "kind", "more": "other"}, "expected one column of labels"),
    ],
)
def test_columns_that_cannot_be_told_are_refused(
    columns: dict[str, str], told: str, tmp_path: Path
) -> None:
    from datasets import ClassLabel

    dataset = made(6)
    if "more" in columns:
        dataset = dataset.rename_column("label", "kind").add_column("other", [0, 1] * 3)
        dataset = dataset.cast_column("other", ClassLabel(names=NAMES))
    else:
        dataset = dataset.remove_columns("image").add_column("sound", list("abcdef"))
    dataset.save_to_disk(tmp_path)
    with pytest.raises(DataError, match=told) as refused:
        get_dataset(f"hf:{tmp_path}")
    assert str(refused.value).isprintable()


def test_splits_without_a_training_split_are_refused(tmp_path: Path) -> None:
    splits(test=4).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"expected a split 'train', .*, got 'test'"):
        get_dataset(f"hf:{tmp_path}")


def test_a_folder_that_holds_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read a data set in") as refused:
        get_dataset(f"hf:{tmp_path}")
    assert str(refused.value).isprintable()
    with pytest.raises(DataError, match="none does not exist"):
        get_dataset(f"hf:{tmp_path / 'none'}")
    with pytest.raises(OptionError, match="hf:FOLDER"):
        get_dataset("hf")


def test_the_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dd-plugins\[hf\]'"):
        get_dataset(f"hf:{tmp_path}")


def test_a_class_of_one_image_is_told(tmp_path: Path) -> None:
    made(7).select([0, 2, 4, 6, 1]).save_to_disk(tmp_path)
    with pytest.warns(DDWarning, match="the only image of class 'bee'"):
        assert np.prod(get_dataset(f"hf:{tmp_path}").image_shape) == 240


def test_an_absurd_label_is_refused_at_once(tmp_path: Path) -> None:
    from datasets import Dataset

    columns = {"image": [[[0.5]]] * 2, "label": [0, 10**15]}
    Dataset.from_dict(columns).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=f"labels go up to {10**15}, .* at most 1 "):
        get_dataset(f"hf:{tmp_path}")


@pytest.mark.parametrize("size", [None, 4])
def test_columns_of_arrays_keep_their_dtype(tmp_path: Path, size: int | None) -> None:
    from datasets import Array2D, ClassLabel, Dataset, Features

    kinds = {"image": Array2D((8, 8), "uint8"), "label": ClassLabel(names=NAMES)}
    greys = [np.full((8, 8), n, dtype=np.uint8) for n in range(20)]
    columns = {"image": greys, "label": [n % 2 for n in range(20)]}
    Dataset.from_dict(columns, features=Features(kinds)).save_to_disk(tmp_path)
    data = get_dataset(f"hf:{tmp_path}", image_size=size)
    assert data.image_shape == (1, size or 8, size or 8)
    assert data.read_test().images[:].dtype == torch.uint8
    assert data.read_test().images[:, 0, 0, 0].tolist() == [8, 9, 18, 19]
