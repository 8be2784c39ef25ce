"""A test set that is not read yet, beside what test_real.py shows of it."""

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from dd_plugins.data.images import Images
from dd_plugins.data.reading import UnreadTestSet
from dd_plugins.errors import DataError

SHAPE = torch.Size((1, 2, 3))
IMAGES, LABELS = torch.rand(4, 1, 2, 3), torch.tensor([0, 1, 1, 0])


class Sized(Dataset[Any]):
    """A dataset that knows its sizes, may be called, and counts what is read."""

    def __init__(self, wrong: bool = False) -> None:
        self.wrong = wrong
        self.asked: list[Any] = []

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        self.asked.append(index)
        return IMAGES[index], LABELS[index]

    def __call__(self) -> Images:
        raise AssertionError("a dataset is no function, though it may be called")

    def check_sizes(self, size: tuple[int, int]) -> None:
        self.asked.append(size)
        if self.wrong:
            raise DataError("its file b.png is of another size")


def test_tensors_are_checked_at_once_and_a_dataset_is_not_touched() -> None:
    with pytest.raises(DataError, match=r"\b1\b.*\b1\b"):
        UnreadTestSet((IMAGES, LABELS)).fitting(SHAPE, 1)
    dataset = Sized()
    UnreadTestSet(dataset).fitting(SHAPE, 1)
    assert dataset.asked == []


def test_sizes_that_are_known_are_checked_without_reading() -> None:
    dataset = Sized()
    reader = UnreadTestSet(dataset).fitting(SHAPE, 2)
    reader.check()
    assert dataset.asked == [(2, 3), 0], "height and width, and one item"
    assert torch.equal(reader().images[:], IMAGES)
    wrong = Sized(wrong=True)
    with pytest.raises(DataError, match=r"b\.png"):
        UnreadTestSet(wrong).fitting(SHAPE, 2).check()
    assert wrong.asked == [(2, 3)]


def test_each_form_gives_the_same_images() -> None:
    for test in ((IMAGES, LABELS), Sized(), lambda: Images(IMAGES, LABELS)):
        found = UnreadTestSet(test).fitting(SHAPE, 2)()
        assert torch.equal(found.images[:], IMAGES)
        assert torch.equal(found.labels, LABELS)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_is_one_of_pairs(count: int) -> None:
    pairs = [(IMAGES[index], int(LABELS[index])) for index in range(count)]
    reader = UnreadTestSet(pairs).fitting(SHAPE, 2)
    reader.check()
    assert torch.equal(reader().images[:], IMAGES[:count])
    assert reader().labels.tolist() == LABELS[:count].tolist()
    both = UnreadTestSet([IMAGES, LABELS]).fitting(SHAPE, 2)
    both.check()
    assert torch.equal(both().images[:], IMAGES)
    with pytest.raises(DataError, match=r"\b1\b.*\b1\b"):
        UnreadTestSet([IMAGES, LABELS]).fitting(SHAPE, 1)


@pytest.mark.parametrize("as_function", [False, True])
def test_stated_channels_hold_for_the_test_set_too(as_function: bool) -> None:
    last = (torch.rand(4, 5, 6, 3), LABELS)
    test: Any = (lambda: last) if as_function else last
    reader = UnreadTestSet(test, "last").fitting(torch.Size((3, 5, 6)), 2)
    assert torch.equal(reader().images[:], last[0].movedim(-1, 1))
    with pytest.raises(DataError, match=r"\(3, 5, 6\)"):
        UnreadTestSet(test, "last").fitting(torch.Size((5, 6, 3)), 2)()


@pytest.mark.parametrize(
    ("shape", "classes", "named"),
    [
        (torch.Size((1, 3, 2)), 2, r"\(1, 3, 2\).*got \(1, 2, 3\)"),
        (SHAPE, 1, r"1 class.*got 1\b"),
    ],
)
def test_a_misfit_is_found_by_the_first_item_and_in_reading(
    shape: torch.Size, classes: int, named: str
) -> None:
    reader = UnreadTestSet(Sized()).fitting(shape, classes)
    with pytest.raises(DataError, match=named):
        reader()
    reader = UnreadTestSet(lambda: (IMAGES, LABELS)).fitting(shape, classes)
    reader.check()
    with pytest.raises(DataError, match=named):
        reader()


def test_no_test_set_is_told_when_it_is_asked_for() -> None:
    reader = UnreadTestSet(None).fitting(SHAPE, 2)
    for ask in (reader, reader.check):
        with pytest.raises(DataError, match="test"):
            ask()
