"""The items of a buffer: stored images as data sets of Avalanche."""

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
from dd_plugins.api import OptionError

__all__ = ["ClassBuffer", "StoredItems", "as_dataset"]


def as_dataset(
    memory: DistilledMemory, labels: Tensor | None, layout: Layout
) -> AvalancheDataset:
    """Return the images of a memory as Avalanche's data set.

    Args:
        memory: it holds images.
        labels: a label for each image; None for its class as a number.
        layout: the layout of the items.
    """
    items = StoredItems(
        list(memory.groups.values()),
        memory.hard_labels().tolist(),
        labels,
        layout.dtype,
    )
    if layout.tasks == "none":
        return as_classification_dataset(items)
    tasks = memory.tasks().tolist()
    made = _make_taskaware_classification_dataset(
        items, targets=items.targets, task_labels=tasks
    )
    inside = layout.tasks == "in items"
    attribute = TaskLabels(tasks, TASK_LABELS, use_in_getitem=inside)
    return made.update_data_attribute(TASK_LABELS, attribute)


class StoredItems(Dataset[tuple[Tensor, "int | Tensor"]]):
    """The stored images with their labels, in the space of the model."""

    def __init__(
        self,
        groups: list[ClassImages],
        targets: list[int],
        labels: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self.targets = targets
        self._images = [
            (stored, index) for stored in groups for index in range(len(stored))
        ]
        self._labels = labels
        self._dtype = dtype

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> "tuple[Tensor, int | Tensor]":
        stored, own = self._images[index]
        label: int | Tensor = self.targets[index]
        if self._labels is not None:
            label = self._labels[index].clone()  # transforms may work in place
        return stored.image(own).to(self._dtype), label


class TaskLabels(DataAttribute):  # type: ignore[misc]
    """Task labels that can be joined with those of any data set, in any order.

    Avalanche 0.6 cannot put a list of labels before the constant one of an experience.
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
    """The items of one class; they can be read, not resized."""

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
