"""The items of a buffer: stored images as data sets of Avalanche."""

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    _make_taskaware_classification_dataset,
    as_classification_dataset,
)
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor
from torch.utils.data import Dataset

from dd_avalanche.memory import ClassImages, DistilledMemory
from dd_avalanche.replay.layout import TASK_LABELS, Layout
from dd_plugins.api import OptionError, random_augmentation

__all__ = ["ClassBuffer", "StoredItems", "as_dataset", "augmented_copies"]


def as_dataset(
    memory: DistilledMemory,
    labels: Tensor | None,
    layout: Layout,
    copies: Sequence[Tensor] = (),
) -> AvalancheDataset:
    """Return the images of a memory as Avalanche's data set.

    Args:
        memory: a memory with images.
        labels: a label for each image; None for its class as a number.
        layout: the layout of the items.
        copies: further items: tensors of all images of the memory, each augmented
            differently.
    """
    items = StoredItems(
        list(memory.groups.values()),
        memory.hard_labels().tolist(),
        labels,
        layout.dtype,
        copies,
    )
    if layout.tasks == "none":
        return as_classification_dataset(items)
    tasks = memory.tasks().tolist() * (1 + len(copies))
    made = _make_taskaware_classification_dataset(
        items, targets=items.targets, task_labels=tasks
    )
    inside = layout.tasks == "in items"
    attribute = TaskLabels(tasks, TASK_LABELS, use_in_getitem=inside)
    return made.update_data_attribute(TASK_LABELS, attribute)


def augmented_copies(
    memory: DistilledMemory, count: int, generator: torch.Generator
) -> list[Tensor]:
    """Return copies of all images of a memory, each under one random operation.

    Args:
        memory: a memory with images.
        count: the number of copies of each image.
        generator: a CPU generator.

    Returns:
        ``count`` tensors of shape ``(n, channels, height, width)``, float32.
    """
    images = memory.images()
    return [
        random_augmentation(images, generator=generator, mirror=memory.mirror)
        for _ in range(count)
    ]


class StoredItems(Dataset[tuple[Tensor, "int | Tensor"]]):
    """The stored images with their labels, in the space of the model."""

    def __init__(
        self,
        groups: list[ClassImages],
        targets: list[int],
        labels: Tensor | None,
        dtype: torch.dtype,
        copies: Sequence[Tensor] = (),
    ) -> None:
        self.targets = targets * (1 + len(copies))
        self._images = [
            (stored, index) for stored in groups for index in range(len(stored))
        ]
        self._labels = labels
        self._dtype = dtype
        self._copies = copies

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> "tuple[Tensor, int | Tensor]":
        copy, own = divmod(index, len(self._images))
        label: int | Tensor = self.targets[index]
        if self._labels is not None:
            label = self._labels[own].clone()  # transforms may work in place
        return self._image(copy, own).to(self._dtype), label

    def _image(self, copy: int, index: int) -> Tensor:
        """Return an image as it is stored, or one of its augmented copies."""
        if copy:
            return self._copies[copy - 1][index].clone()
        stored, own = self._images[index]
        return stored.image(own)


class TaskLabels(DataAttribute):  # type: ignore[misc]
    """Task labels, joinable with those of any data set, in any order.

    Avalanche 0.6 cannot put a list of labels before an experience's constant one.
    """

    def subset(self, indices: Any) -> "TaskLabels":
        return TaskLabels(
            self.data.subset(indices), self.name, use_in_getitem=self.use_in_getitem
        )

    def concat(self, other: DataAttribute) -> "TaskLabels":
        return TaskLabels(
            [*self.data, *other.data], self.name, use_in_getitem=self.use_in_getitem
        )


class ClassBuffer(ExemplarsBuffer):  # type: ignore[misc]
    """The items of one class, to be read but not resized."""

    def __init__(self, items: AvalancheDataset) -> None:
        super().__init__(len(items))
        self.buffer = items

    def resize(self, strategy: Any, new_size: int) -> None:
        """Refuse a size for one class.

        Raises:
            OptionError: always.
        """
        raise OptionError(
            "a distilled buffer can only be resized as a whole, got a size of "
            f"{new_size} for one class; resize the buffer"
        )
