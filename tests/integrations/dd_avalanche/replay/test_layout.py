"""The items of an experience: which a buffer reads, and which it refuses."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dd_plugins.errors import DataError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.scenarios import class_incremental_benchmark
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    as_classification_dataset,
)
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader
from learners import Digits, buffer, chosen, labelled, pair

from dd_avalanche import DistilledReplayPlugin
from dd_avalanche.replay.layout import TASK_LABELS, Layout, read_images

pytestmark = [
    # Of Avalanche 0.6 and what it imports; none of them is ours.
    pytest.mark.filterwarnings("ignore"),
]


def test_missing_transform_is_named() -> None:
    from torchvision.transforms.v2.functional import to_pil_image

    train = as_classification_dataset(Digits("train", transform=to_pil_image))
    stream = class_incremental_benchmark(
        {"train": train, "test": train}, num_experiences=5, seed=0
    )
    with pytest.raises(DataError, match=r"images as Image; .* such as ToTensor\(\)"):
        buffer().post_adapt(None, stream.train_stream[0])
    sizes = itertools.cycle([8, 6])
    uneven = as_classification_dataset(
        Digits("train", transform=lambda image: image[..., : next(sizes)])
    )
    stream = class_incremental_benchmark(
        {"train": uneven, "test": uneven}, num_experiences=5, seed=0
    )
    with pytest.raises(DataError, match="must have one shape, got"):
        buffer().post_adapt(None, stream.train_stream[0])


def beside(low: int) -> AvalancheDataset:
    return labelled(pair, low, DataAttribute([3] * 12, "targets_task_labels"))


@pytest.mark.parametrize(
    "make",
    [
        lambda low: labelled(pair, low),
        beside,
        lambda low: labelled(lambda x, y, i: (x, torch.tensor(y)), low),
        lambda low: labelled(lambda x, y, i: (x, torch.tensor([y])), low),
        lambda low: labelled(lambda x, y, i: (x, torch.tensor(y).int()), low),
        lambda low: labelled(lambda x, y, i: [x.double(), np.int64(y)], low),
        lambda low: labelled(lambda x, y, i: (x.half(), y), low),
    ],
)
def test_items_have_the_parts_of_the_benchmark(make: Any) -> None:
    stream = benchmark_from_datasets(train=[make(0), make(2)]).train_stream
    held = chosen()
    held.post_adapt(None, stream[0])
    batch = next(
        iter(
            ReplayDataLoader(
                stream[1].dataset, held.buffer, batch_size=4, batch_size_mem=4
            )
        )
    )
    ours, theirs = held.buffer[0], stream[1].dataset[0]
    assert len(ours) == len(theirs)
    assert ours[0].dtype == theirs[0].dtype == batch[0].dtype
    if isinstance(theirs[1], Tensor):
        assert (ours[1].shape, ours[1].dtype) == (theirs[1].shape, theirs[1].dtype)
    assert len(batch[0]) == 8
    if hasattr(stream[0].dataset, "targets_task_labels"):
        assert list(held.buffer.targets_task_labels) == [3] * 8


@pytest.mark.parametrize(
    "dataset",
    [
        labelled(pair, 0, DataAttribute([7] * 12, "domain", use_in_getitem=True)),
        labelled(lambda x, y, i: (x, y, i)),
        labelled(lambda x, y, i: (x, y, 0, x)),
    ],
)
def test_items_of_further_parts_are_refused_where_they_are_mixed(dataset: Any) -> None:
    experience = benchmark_from_datasets(train=[dataset]).train_stream[0]
    held = chosen()
    with pytest.raises(DataError, match=r"use_in_getitem=False.*DistilledReplayPlugin"):
        held.post_adapt(None, experience)
    assert len(held.buffer) == 0
    DistilledReplayPlugin(held).after_training_exp(
        SimpleNamespace(experience=experience)
    )
    assert len(held.memory) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, y, i: {"image": x, "label": y}, "dictionaries with 'image', 'lab"),
        (lambda x, y, i: (x,), "sequences of 1 part"),
        (lambda x, y, i: x, "items as Tensor"),
        (lambda x, y, i: None, "items as NoneType"),
        (lambda x, y, i: (x, "ab"[y]), "labels images with 'a', expected whole"),
        (lambda x, y, i: (x, None), "labels images with None"),
        (lambda x, y, i: (x, y + 0.5), "labels images with 0.5"),
        (lambda x, y, i: (x, np.array([1, 0, 1])), r"vectors of shape \(3,\)"),
        (lambda x, y, i: (x, y if i < 5 else "b"), "labels images with 'b'"),
    ],
)
def test_items_that_are_no_pairs_are_refused(make: Any, message: str) -> None:
    held = chosen()
    with pytest.raises(DataError, match=message):
        held.post_adapt(None, SimpleNamespace(dataset=labelled(make)))
    assert len(held.memory) == 0


@pytest.mark.parametrize(
    ("dataset", "layout"),
    [
        (labelled(pair), Layout("none", None, torch.float32)),
        (beside(0), Layout("beside", None, torch.float32)),
        (
            labelled(lambda x, y, i: (x.half(), torch.tensor([y]))),
            Layout("none", ((1,), torch.int64), torch.float16),
        ),
        (
            labelled(
                pair, 0, DataAttribute([1] * 12, TASK_LABELS, use_in_getitem=True)
            ),
            Layout("in items", None, torch.float32),
        ),
        (labelled(pair).subset([]), Layout()),
    ],
)
def test_layout_is_told_by_an_item(dataset: AvalancheDataset, layout: Layout) -> None:
    assert Layout.of(dataset) == layout


def test_images_are_read_with_their_classes_and_tasks() -> None:
    read = read_images(beside(4), mixed=True)
    assert read.images.shape == (12, 1, 8, 8)
    assert read.labels.tolist() == [4, 5] * 6
    assert read.tasks.tolist() == [3] * 12
    plain = read_images(labelled(lambda x, y, i: (x.double(), np.int64(y))), mixed=True)
    assert plain.images.dtype == torch.float32
    assert plain.tasks.tolist() == [0] * 12
    assert plain.layout.dtype == torch.float64
    empty = read_images(labelled(pair).subset([]), mixed=True)
    assert [len(part) for part in empty[:3]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(8, 8), r"shape \(8, 8\), expected \(channels, height, width\)"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), "images as torch.uint8; "),
        (np.zeros((1, 8, 8)), "images as ndarray; "),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_images(labelled(lambda x, y, i: (image, y)), mixed=False)
