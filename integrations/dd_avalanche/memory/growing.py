"""Adding an experience to a memory."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dd_avalanche.memory.distilling import Distillate
from dd_avalanche.memory.options import MemoryOptions
from dd_avalanche.memory.pool import ImagePool
from dd_avalanche.memory.stored import ClassImages, ImageGroups, TaskClass
from dd_plugins.api import (
    DataError,
    ImageShape,
    OptionError,
    as_number_tensor,
    get_network,
    packed,
)

__all__ = ["Addition", "checked_experience"]


@dataclass(frozen=True)
class Addition:
    """The classes of an experience, and the stored classes of its task.

    Attributes:
        task: the task of the experience.
        room: the largest number of stored images of each class afterwards.
        counts: the number of new real images of each class of the experience.
        seen: the number of earlier real images of each stored class of the task.
        options: the options of the memory.
    """

    task: int
    room: dict[TaskClass, int]
    counts: dict[int, int]
    seen: dict[int, int]
    options: MemoryOptions

    @classmethod
    def of(
        cls, labels: Tensor, task: int, groups: ImageGroups, options: MemoryOptions
    ) -> "Addition":
        """Return the addition of images with these labels.

        Raises:
            OptionError: the memory has no room for all classes.
        """
        counts = {
            label: int((labels == label).sum())
            for label in sorted(set(labels.tolist()))
        }
        seen = Counter({key: stored.seen for key, stored in groups.items()})
        seen.update({TaskClass(task, label): count for label, count in counts.items()})
        return cls(
            task,
            options.room(seen),
            counts,
            {c: groups[TaskClass(task, c)].seen for c in groups.classes(task)},
            options,
        )

    @property
    def chooses(self) -> bool:
        """Whether the distiller is a coreset: it chooses images and moves none."""
        return not self.options.method.moves_images

    @property
    def others(self) -> list[int]:
        """The stored classes of the task outside this experience."""
        return sorted(set(self.seen) - set(self.counts))

    @property
    def returning(self) -> list[int]:
        """The stored classes that return, and have copies among the real images.

        A coreset gets no copies: it must not choose the same image twice.
        """
        return [] if self.chooses else sorted(set(self.seen) & set(self.counts))

    @property
    def beside(self) -> list[int]:
        """The stored classes in the context of the distillation."""
        return [] if self.options.context == "none" else self.others

    @property
    def contrast_classes(self) -> list[int]:
        """The stored classes with copies among the real images.

        A single new class needs others for contrast, with or without a context.
        """
        return self.others if len(self.counts) == 1 else self.beside

    @property
    def present(self) -> list[int]:
        """All classes of the distillation, sorted."""
        return sorted({*self.counts, *self.contrast_classes})

    @property
    def learned(self) -> list[int]:
        """The classes whose stored images the distillation replaces."""
        refined = self.options.context == "refined"
        return self.present if refined else sorted(self.counts)

    def room_of(self, label: int) -> int:
        """Return how many stored images per class of this task has room for."""
        return self.room[TaskClass(self.task, label)]

    def most_stored(self, label: int) -> int:
        """Return how many stored images per class can have; few real ones limit it."""
        if label not in self.counts:
            return self.room_of(label)
        available = self.counts[label] + self.seen.get(label, 0)
        return min(self.room_of(label), -(-available // self.options.packing**2))

    def starting_images(self, label: int) -> int:
        """Return how many real images of a class the distillation starts from."""
        return self.room_of(label) * self.options.packing**2

    def shortage(self) -> str | None:
        """Return a sentence about the classes with too few images, or None."""
        most = {label: self.most_stored(label) for label in self.counts}
        short = [
            f"{count} of class {label}"
            for label, count in most.items()
            if count < self.room_of(label)
        ]
        if not short:
            return None
        wanted = " or ".join(map(str, sorted({self.room_of(n) for n in most})))
        return (
            f"{wanted} images of each class were asked for, but there are only "
            f"{', '.join(short)}"
        )

    def check(self, image_shape: ImageShape) -> None:
        """Refuse a single class if the distiller needs at least two.

        Args:
            image_shape: channels, height and width.

        Raises:
            OptionError: there is one class, and the distiller cannot learn one alone,
                or BatchNorm in its network takes the statistics of all classes.
        """
        if len(self.present) > 1:
            return
        method, network = self.options.method, self.options.network
        if not method.classes_apart:
            raise OptionError(
                f"{method!r} needs at least two classes to tell apart, got class "
                f"{self.present[0]} alone; start the stream with more, or take dm, "
                "random or herding(training_steps=0)"
            )
        if network is None or not method.uses_network:
            return
        if get_network(network).uses_batch_norm(image_shape):
            raise OptionError(
                f"{method!r} needs at least two classes with {network!r}, whose "
                f"BatchNorm sees all classes together, got class {self.present[0]} "
                "alone; start the stream with more, or take a network without BatchNorm"
            )

    def pool(self, images: Tensor, labels: Tensor, groups: ImageGroups) -> ImagePool:
        """Return the images for distilling the experience.

        Args:
            images: the images of the experience.
            labels: their classes.
            groups: the stored images.
        """
        pool = ImagePool(images, labels)
        for stored, label, count in self._copies_of_stored(groups):
            pool.add(stored, label, count)
        for few, label, count in self._repeats_of_real(images, labels):
            pool.add(few, label, count)
        return pool

    def _copies_of_stored(
        self, groups: ImageGroups
    ) -> Iterator[tuple[Tensor, int, int]]:
        """Yield stored images, their class, and the number of their copies.

        Stored images stand for all earlier real ones, so a returning class is drawn
        from old and new images in that proportion.
        """
        for label in (*self.returning, *self.contrast_classes):
            stored = groups[TaskClass(self.task, label)]
            count = max(stored.seen, len(stored), self.starting_images(label))
            yield stored.images, label, count

    def _repeats_of_real(
        self, images: Tensor, labels: Tensor
    ) -> Iterator[tuple[Tensor, int, int]]:
        """Yield the real images of a class with too few, and the number of repeats.

        A run makes as many images of a class as there is room for. The surplus is
        dropped afterwards.
        """
        for label, count in self.counts.items():
            earlier = self.seen[label] if label in self.returning else 0
            if count + earlier < self.starting_images(label):
                yield (
                    images[labels == label],
                    label,
                    self.starting_images(label) - count,
                )

    def result(
        self,
        label: int,
        made: Distillate,
        images: Tensor,
        labels: Tensor,
        old: ClassImages | None,
    ) -> ClassImages:
        """Return the stored images of a class after this experience.

        Args:
            label: the class.
            made: the result of the distillation.
            images: the real images of the experience.
            labels: their classes.
            old: the stored images of the class before; None if it is new.
        """
        count = self.counts.get(label, 0)
        seen = self.seen.get(label, 0) + count
        stored = made.of_class(label, seen, self.options)
        if self.chooses:
            if 0 < count < self.starting_images(label):
                # The coreset chose from several copies: each image is taken once.
                own = self._as_grids(images[labels == label])
                stored = stored.with_grids(own, self.options.store)
            if old is not None:
                stored = self._mixed(old, stored, self.room_of(label))
        return stored.first(self.most_stored(label))

    def _mixed(self, old: ClassImages, new: ClassImages, wanted: int) -> ClassImages:
        """Return old and new stored images, in proportion to their real images."""
        share = round(wanted * old.seen / new.seen)
        kept = min(old.count, max(share, wanted - new.count))
        grids = torch.cat([old.grids[:kept], new.grids[: wanted - kept]])
        return new.with_grids(grids, self.options.store)

    def _as_grids(self, images: Tensor) -> Tensor:
        """Return images as they are stored; the first ones fill up the last grid."""
        factor = self.options.packing
        filled = -(-len(images) // factor**2) * factor**2
        chosen = images[torch.arange(filled) % len(images)]
        return chosen if factor == 1 else packed(chosen, factor)


def checked_experience(
    images: Any, labels: Any, groups: ImageGroups, options: MemoryOptions
) -> tuple[Tensor, Tensor]:
    """Return the images and labels of an experience in their working dtypes.

    Args:
        images: a tensor or an array, floating, in the value space of the model.
        labels: integers, a tensor, an array or a list, of shape ``(n,)`` or ``(n, 1)``.
        groups: the stored images; new ones must have the same shape.
        options: the options of the memory.

    Raises:
        DataError: shapes, values or classes do not fit.
    """
    images = as_number_tensor(images, "the images of an experience").detach().cpu()
    if not images.is_floating_point():
        raise DataError(
            f"the images of an experience must be floating, got {images.dtype}; apply "
            "the evaluation transform of the benchmark, which ends in the value space "
            "of the model"
        )
    if images.ndim != 4 or len(images) == 0:
        raise DataError(
            "the images of an experience must have shape (n, channels, height, "
            f"width), n from 1; got {tuple(images.shape)}"
        )
    extremes = [float(value) for value in images.aminmax()]
    if not all(map(math.isfinite, extremes)):
        raise DataError(
            "the images of an experience must have finite values, got values between "
            f"{extremes[0]} and {extremes[1]}"
        )
    labels = _as_classes(labels, len(images))
    low, high = (int(value) for value in labels.aminmax())
    classes = options.num_classes
    if low < 0 or (classes is not None and high >= classes):
        raise DataError(
            f"the classes of an experience go from {low} to {high}; expected 0 to "
            f"{'any' if classes is None else classes - 1}"
        )
    shape = images.shape[1:]
    if isinstance(options.whitening, Tensor):
        _check_shape(shape, options.whitening.shape[1:], "as the public ones have")
    if groups:
        held = next(iter(groups.values())).pixels
        _check_shape(shape, held.shape[1:], "as those before had")
    return images.float(), labels


def _as_classes(labels: Any, count: int) -> Tensor:
    """Return labels as int64 of shape ``(count,)``.

    Raises:
        DataError: they are not one whole number for each image.
    """
    labels = as_number_tensor(labels, "the classes of an experience").detach().cpu()
    if labels.shape not in ((count,), (count, 1)):
        raise DataError(
            f"the classes of an experience must have shape ({count},), one for each "
            f"image; got {tuple(labels.shape)}"
        )
    classes: Tensor = labels.real.long()
    if not torch.equal(classes.to(labels.dtype), labels):
        raise DataError("the classes of an experience must be whole numbers")
    return classes.view(count)


def _check_shape(shape: Sequence[int], other: Sequence[int], like: str) -> None:
    if tuple(shape) != tuple(other):
        raise DataError(
            f"the images of an experience must have shape {tuple(other)}, {like}, got "
            f"{tuple(shape)}"
        )
