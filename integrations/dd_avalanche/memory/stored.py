"""Stored images: their values and labels, by class, and how many bytes they take."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dd_avalanche.memory.choices import Store
from dd_plugins.api import LABEL_KINDS, LabelKind, unpacked

__all__ = [
    "ClassImages",
    "ImageGroups",
    "TaskClass",
    "is_rounded",
    "packing_of",
    "spread_labels",
]

_PACKING = 2  # smaller images along each side of a packed one

_LEVELS = 255


def packing_of(store: str) -> int:
    """Return how many smaller images a stored one holds along each side."""
    return _PACKING if store.startswith("packed") else 1


def is_rounded(store: str) -> bool:
    """Return whether a store rounds images to 256 levels."""
    return store.endswith("uint8")


class TaskClass(NamedTuple):
    """A class of a task: its images are stored together.

    Attributes:
        task: the task label; 0 where a benchmark has none.
        label: the class.
    """

    task: int
    label: int


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The stored images of one class of a task.

    Attributes:
        pixels: float32 of shape ``(m, channels, height, width)`` in the value space of
            the model; or uint8, mapped to this space by ``low + step * pixels``.
        labels: float32 of shape ``(n, k)``, as the distiller learned them; n is m, or
            if images are packed, m times the square of ``packing``.
        label_classes: the k classes scored by the labels.
        label_kind: the kind of the labels.
        seen: the number of real images of the class so far.
        low: float32 of shape ``(m, 1, 1, 1)``; None for float32 pixels.
        step: likewise.
        packing: smaller images along each side of a stored one.
    """

    pixels: Tensor
    labels: Tensor
    label_classes: tuple[int, ...]
    label_kind: LabelKind
    seen: int
    low: Tensor | None = None
    step: Tensor | None = None
    packing: int = 1

    @classmethod
    def of(cls, images: Tensor, store: Store, **fields: Any) -> "ClassImages":
        """Store images, or grids of packed ones, in the value space of the model."""
        exact = cls(images.contiguous(), packing=packing_of(store), **fields)
        return exact.rounded() if is_rounded(store) else exact

    def rounded(self) -> "ClassImages":
        """Return the same images with 256 levels for each stored one."""
        images = self._stored(slice(None))
        low = images.amin(dim=(1, 2, 3), keepdim=True)
        step = (images.amax(dim=(1, 2, 3), keepdim=True) - low) / _LEVELS
        step = torch.where(step > 0, step, torch.ones_like(step))
        levels = ((images - low) / step).round().clamp(0, _LEVELS).to(torch.uint8)
        return replace(self, pixels=levels.contiguous(), low=low, step=step)

    def with_grids(self, grids: Tensor, store: Store) -> "ClassImages":
        """Return other stored images of the class, all with its first label.

        This is for coresets: their labels are the classes, and are not learned.

        Args:
            grids: images, or grids of packed ones, as in :attr:`grids`.
            store: how they are stored.
        """
        count = len(grids) * self.packing**2
        labels = self.labels[:1].expand(count, -1).contiguous()
        plain = replace(self, labels=labels, low=None, step=None)
        exact = replace(plain, pixels=grids.contiguous())
        return exact.rounded() if is_rounded(store) else exact

    @property
    def grids(self) -> Tensor:
        """The stored images, or grids of packed ones, as float32."""
        return self._stored(slice(None))

    @property
    def images(self) -> Tensor:
        """The images in the value space of the model, float32."""
        return self._unpacked(self.grids)

    def image(self, index: int) -> Tensor:
        """Return one image in the value space of the model, float32."""
        grid, cell = divmod(index, self.packing**2)
        stored = self._stored(slice(grid, grid + 1))
        if self.packing == 1:
            return stored[0].clone()  # transforms may work in place
        return self._unpacked(stored)[cell]

    def _stored(self, chosen: slice) -> Tensor:
        """Return some of the stored images, as float32."""
        if self.low is None or self.step is None:
            return self.pixels[chosen]
        return self.low[chosen] + self.step[chosen] * self.pixels[chosen]

    def _unpacked(self, stored: Tensor) -> Tensor:
        """Return the images packed in stored ones."""
        if self.packing == 1:
            return stored
        return unpacked(stored, self.packing)

    @property
    def image_bytes(self) -> int:
        """Bytes of the pixels, and of their ranges if they are rounded."""
        tensors = [self.pixels, self.low, self.step]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @property
    def num_bytes(self) -> int:
        """Bytes of the images, and of learned labels."""
        of_labels = 0 if self.label_kind == "classes" else self.labels.nbytes
        return self.image_bytes + of_labels

    @property
    def count(self) -> int:
        """The number of stored images; one may hold several."""
        return len(self.pixels)

    def first(self, count: int) -> "ClassImages":
        """Return a copy with only the first stored images."""
        rows = {"labels": count * self.packing**2}
        kept = {
            # A slice would keep all images in memory; a copy does not.
            name: None if tensor is None else tensor[: rows.get(name, count)].clone()
            for name, tensor in self.tensors().items()
        }
        return replace(self, **kept)  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor | None]:
        """Return the tensors by their names."""
        return {
            "pixels": self.pixels,
            "labels": self.labels,
            "low": self.low,
            "step": self.step,
        }

    def __len__(self) -> int:
        return self.count * self.packing**2


class ImageGroups(dict[TaskClass, ClassImages]):
    """The stored images of all classes, in the order of appearance."""

    @property
    def num_images(self) -> int:
        """The number of images."""
        return sum(map(len, self.values()))

    @property
    def num_bytes(self) -> int:
        """Bytes of images, and of learned labels."""
        return sum(stored.num_bytes for stored in self.values())

    @property
    def image_bytes(self) -> int:
        """Bytes of images, without labels."""
        return sum(stored.image_bytes for stored in self.values())

    def tasks(self) -> list[int]:
        """Return the tasks, sorted."""
        return sorted({key.task for key in self})

    def classes(self, task: int) -> list[int]:
        """Return the classes of a task, sorted."""
        return sorted(key.label for key in self if key.task == task)

    def only(self, keys: Iterable[TaskClass]) -> "ImageGroups":
        """Return the groups of these keys, in their order."""
        return ImageGroups((key, self[key]) for key in keys)

    def images(self) -> Tensor:
        """Return all images, group by group."""
        return torch.cat([stored.images for stored in self.values()])

    def each(self, name: Literal["task", "label"]) -> Tensor:
        """Return the task or the class of each image, int64."""
        counts = torch.tensor([len(stored) for stored in self.values()])
        values = torch.tensor([getattr(key, name) for key in self])
        return values.repeat_interleave(counts)

    def labels(self, classes: Sequence[int]) -> Tensor:
        """Return the learned labels of all images as scores of these classes."""
        return torch.cat(
            [
                spread_labels(
                    stored.labels, stored.label_classes, stored.label_kind, classes
                )
                for stored in self.values()
            ]
        )


def spread_labels(
    labels: Tensor,
    label_classes: Sequence[int],
    label_kind: LabelKind,
    classes: Sequence[int],
) -> Tensor:
    """Convert labels over some classes to labels over others.

    Regression targets are centred: ``1 - 1/k`` and ``-1/k`` among k classes become ``1
    - 1/m`` and ``-1/m`` among m. Labels of other kinds are 0 for further classes.
    Scores of classes outside the m are dropped.

    Args:
        labels: float of shape ``(n, k)``.
        label_classes: the k classes scored by the labels.
        label_kind: the kind of the labels.
        classes: the m classes to score.

    Returns:
        float32 of shape ``(n, m)``.
    """
    offset = LABEL_KINDS[label_kind].offset
    few, many = offset(len(label_classes)), offset(len(classes))
    spread = torch.full((len(labels), len(classes)), many, device=labels.device)
    labels = labels + (many - few)
    kept = [index for index, label in enumerate(label_classes) if label in classes]
    targets = [classes.index(label_classes[index]) for index in kept]
    spread[:, targets] = labels[:, kept].float()
    return spread
