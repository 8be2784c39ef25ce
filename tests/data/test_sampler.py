"""Draws shared by processes, and what a batch is, beside what test_real.py shows."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import Batch, RealSampler
from dd_plugins.training.kept_networks import RealImages

CPU = torch.device("cpu")
COUNT = 23
LABELS = torch.arange(COUNT) % 3


def numbered(dtype: torch.dtype = torch.float32) -> Tensor:
    """Return images that are filled with their own number."""
    return torch.arange(COUNT).view(-1, 1, 1, 1).repeat(1, 2, 3, 2).to(dtype)


def numbers(batch: Batch) -> list[int]:
    found: list[int] = batch.images[:, 0, 0, 0].long().tolist()
    assert batch.labels.tolist() == [number % 3 for number in found]
    return found


def sampler(**options: Any) -> RealSampler:
    whole = {"images": numbered(), "labels": LABELS, "seed": 4, "device": CPU}
    return RealSampler(**(whole | options))


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("size", [3, 7, 10, 23, 50])
def test_processes_share_each_batch_without_a_rest(size: int, ranks: int) -> None:
    alone = sampler()
    shared = [sampler(rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in range(9):  # beyond the end of an epoch
        whole = numbers(alone.batch(step, size))
        parts = [numbers(each.batch(step, size)) for each in shared]
        assert [whole[rank::ranks] for rank in range(ranks)] == parts
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        of_class = [numbers(each.class_batch(step, 1, size)) for each in shared]
        together = sorted(number for part in of_class for number in part)
        assert together == sorted(numbers(alone.class_batch(step, 1, size)))


def test_the_next_batch_goes_on_in_the_epoch_that_is_begun() -> None:
    one, other = sampler(), sampler()
    whole = [number for step in range(5) for number in numbers(one.batch(step, 6))]
    singly = [number for step in range(30) for number in numbers(other.batch(step, 1))]
    assert whole == singly


@pytest.mark.parametrize("places", [[], [5], [22, 0, 0, 7]])
def test_places_are_read_as_they_are_in_whatever_process(places: list[int]) -> None:
    for rank in (0, 1):
        draws = sampler(rank=rank, ranks=2)
        assert numbers(draws.read(torch.tensor(places, dtype=torch.int64))) == places


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_batches_are_of_float32_whatever_the_images_are(dtype: torch.dtype) -> None:
    batch = sampler(images=numbered(dtype)).batch(0, 9)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == torch.int64
    assert len(set(numbers(batch))) == 9


def test_bytes_are_mapped_to_the_value_space_when_they_are_drawn() -> None:
    transform = Transform(torch.tensor([0.5, 0.25]), torch.tensor([2.0, 4.0]))
    draws = sampler(images=numbered(torch.uint8), transform=transform)
    found, labels = draws.read(torch.tensor([20, 1]))
    assert labels.tolist() == [2, 1]
    first = torch.tensor([[20 / 255 - 0.5, 1 / 255 - 0.5]]).T / 2
    second = torch.tensor([[20 / 255 - 0.25, 1 / 255 - 0.25]]).T / 4
    expected = torch.cat([first, second], dim=1)[:, :, None, None].expand(2, 2, 3, 2)
    torch.testing.assert_close(found, expected)


def test_labels_of_all_images_are_told_and_not_given_away() -> None:
    draws = sampler(content="abc zca")
    assert torch.equal(draws.labels, LABELS)
    assert draws.content == "abc zca"
    draws.close()
    assert len(draws.batch(0, 4).labels) == 4


def test_the_indices_of_all_images_are_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of ImageNet they took longer than many a step."""
    made, arange, wanted = [], torch.arange, numbered()

    def counted(count: int) -> Tensor:
        made.append(count)
        return arange(count)

    draws = sampler()
    images = RealImages(draws)
    monkeypatch.setattr(torch, "arange", counted)
    for step in range(3):
        draws.batch(step, 5)
        assert torch.equal(images[torch.tensor([3, 1])], wanted[[3, 1]])
        assert torch.equal(images[2:4], wanted[2:4])
        assert len(images[:]) == len(images) == COUNT
    assert made == [COUNT, COUNT]
