"""The images of a distillation, gathered when they are asked for."""

import pytest
import torch
from torch import Tensor

from dd_avalanche.memory.pool import ImagePool, PoolImages


def numbered(first: int, count: int) -> Tensor:
    """Images of which each pixel is the number of the image."""
    numbers = torch.arange(first, first + count, dtype=torch.float32)
    return numbers.view(-1, 1, 1, 1).expand(-1, 1, 2, 3).contiguous()


def numbers_of(images: Tensor) -> list[int]:
    return [int(number) for number in images[:, 0, 0, 0]]


def pool() -> ImagePool:
    made = ImagePool(numbered(0, 4), torch.tensor([3, 5, 3, 5]))
    made.add(numbered(10, 2), label=7, count=5)
    made.add(numbered(20, 1), label=3, count=2)
    return made


def test_copies_are_taken_in_turn_and_have_their_class() -> None:
    images = pool().images()
    assert numbers_of(images[:]) == [0, 1, 2, 3, 10, 11, 10, 11, 10, 20, 20]
    assert pool().labels.tolist() == [3, 5, 3, 5, 7, 7, 7, 7, 7, 3, 3]
    assert len(images) == 11
    assert images.shape == (11, 1, 2, 3)
    assert images.numel() == 11 * 6


def test_copies_take_no_room() -> None:
    held = ImagePool(numbered(0, 4), torch.zeros(4, dtype=torch.int64))
    stored = numbered(10, 2)
    held.add(stored, label=1, count=1_000_000)
    assert held.parts[1] is stored
    assert held.num_sources == 6, "each image once"
    assert len(held) == len(held.images()) == 1_000_004


def test_images_are_picked_by_slices_and_by_indices() -> None:
    images = pool().images()
    assert numbers_of(images[3:6]) == [3, 10, 11]
    assert numbers_of(images[torch.tensor([9, 0, 4, 0])]) == [20, 0, 10, 0]
    some = images.select(torch.tensor([10, 8, 1]))
    assert isinstance(some, PoolImages)
    assert numbers_of(some[:]) == [20, 10, 1]
    assert numbers_of(some.select(torch.tensor([1]))[:]) == [10]
    draws = [torch.tensor([1, 9]), torch.tensor([4])]
    assert [numbers_of(batch) for batch in images.batches(draws)] == [[1, 20], [10]]


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_any_number_of_images_is_gathered(count: int) -> None:
    held = ImagePool(numbered(0, 300), torch.zeros(300, dtype=torch.int64))
    held.add(numbered(1000, 7), label=1, count=300)
    every = [*range(300), *(1000 + index % 7 for index in range(300))]
    assert numbers_of(held.images()[:count]) == every[:count]


def test_what_is_gathered_is_a_copy() -> None:
    held = pool()
    held.images()[:].zero_()
    assert numbers_of(held.parts[0]) == [0, 1, 2, 3]


def test_item_of_a_pool_is_an_image_of_the_distillation() -> None:
    held = pool()
    image, label = held[9]
    assert (int(image[0, 0, 0]), label) == (20, 3)
