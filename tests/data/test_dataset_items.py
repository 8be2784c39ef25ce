"""Items of a dataset, beside what test_real.py shows of the data made of them."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from dd_plugins.data.items import Items, has_room, mixed_sizes, read_dataset, survey
from dd_plugins.errors import DataError

IMAGE = torch.arange(8).view(2, 2, 2).to(torch.uint8)


class Listed(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def of(*items: Any) -> Items:
    return Items(Listed(list(items)))


def test_the_first_key_that_is_there_is_taken() -> None:
    other = IMAGE + 1
    both = {"img": IMAGE, "pixel_values": other, "labels": 3, "class": 4}
    image, label = of(both)[0]
    assert (torch.equal(image, IMAGE), label) == (True, 3)
    assert type(label) is int
    image, label = of({"class": np.uint8(4), "pixel_values": other})[0]
    assert (torch.equal(image, other), label) == (True, 4)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"image": None, "label": 1}, "image, label"),
        ({"label": 1, 7: IMAGE}, "label, 7"),
        ("ab", "str"),
        ({IMAGE, 1}, "set"),
        ([IMAGE, 1, 2], r"list.*\b3\b"),
        ((IMAGE, 1.0), "float"),
        ((IMAGE, 2**63), str(2**63)),
        ((IMAGE, np.array([])), r"\(0,\)"),
        ((IMAGE, torch.tensor([0.5])), "label"),
        ((3, 1), r"\(\)"),
    ],
)
def test_an_item_that_is_no_pair_is_told_by_number_and_kind(
    item: Any, named: str
) -> None:
    items = of((IMAGE, 0), item)
    assert items[0][1] == 0
    with pytest.raises(DataError, match=rf"\b1\b.*{named}"):
        items[1]


def test_labels_may_be_as_large_as_int64() -> None:
    number = 2**63 - 1
    assert of((IMAGE, number))[0][1] == number
    _, labels = read_dataset(of((IMAGE, number)))
    assert labels.tolist() == [number]


def test_a_dataset_s_own_data_error_is_passed_on() -> None:
    class Refusing(Listed):
        def __getitem__(self, index: int) -> Any:
            raise DataError("said by the dataset")

    with pytest.raises(DataError, match=r"^said by the dataset$"):
        Items(Refusing([0]))[0]


def test_a_dataset_is_surveyed_as_it_is_read() -> None:
    generator = np.random.default_rng(0)
    pairs = [
        (generator.integers(0, 256, (5, 4, 3), dtype=np.uint8), int(number % 7))
        for number in range(150)
    ]
    read, labels = read_dataset(of(*pairs))
    surveyed, same = survey(of(*pairs), workers=0)
    assert read.shape == surveyed.shape == (150, 3, 5, 4)
    assert torch.equal(surveyed[:], read)
    assert torch.equal(same, labels)
    assert labels.dtype == same.dtype == torch.int64


def test_a_dataset_is_read_into_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of images beside it would take the memory twice."""
    monkeypatch.setattr(torch, "stack", None)
    images, labels = read_dataset(of((IMAGE, 1), (IMAGE + 1, 0)))
    assert torch.equal(images[1], IMAGE + 1)
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("reader", [read_dataset, lambda items: survey(items, 0)])
@pytest.mark.parametrize(
    ("image", "named"),
    [
        (IMAGE.float() / 8, r"\b130\b.*float32.*uint8"),
        (torch.zeros(2, 2, 3, dtype=torch.uint8), r"\(2, 2, 3\)"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), r"2 and 3.*\(2, 2, 2\)"),
    ],
)
def test_an_image_unlike_those_before_it_is_told(
    reader: Any, image: torch.Tensor, named: str
) -> None:
    """Also far behind the first: images are surveyed 64 at a time."""
    pairs = [(IMAGE, 0)] * 130 + [(image, 1)] + [(IMAGE, 0)] * 9
    with pytest.raises(DataError, match=named):
        reader(of(*pairs))


def test_a_value_that_is_none_is_told_by_the_number_of_its_image() -> None:
    whole = IMAGE.float() / 8
    pairs = [(whole, 0)] * 99 + [(whole / 0, 1)]
    with pytest.raises(DataError, match=r"number 99\b"):
        survey(of(*pairs), workers=0)


def test_room_is_asked_for_bytes_and_for_whitened_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(
        "dd_plugins.data.items.fits_in_memory", lambda size: asked.append(size) or True
    )
    assert has_room(of(*[(IMAGE, 0)] * 10))
    assert has_room(of(*[(IMAGE.float() / 8, 0)] * 10))
    assert asked == [10 * 8 * (1 + 4), 10 * 8 * (4 + 4)]


def test_the_commonest_sizes_are_listed_first() -> None:
    shapes = Counter({(3, side, 9): 10 + side for side in range(1, 7)})
    text = str(mixed_sizes(shapes))
    sides = [int(side) for side in re.findall(r"\(3, (\d), 9\) x1\d", text)]
    assert sides == [6, 5, 4, 3]
    assert re.search(r"\b6 sizes", text)
    channels = Counter({(1, 4, 4): 2, (3, 4, 4): 5})
    assert re.search(
        r"\b1 and 3\b.*\(3, 4, 4\) x5.*\(1, 4, 4\) x2", str(mixed_sizes(channels))
    )
