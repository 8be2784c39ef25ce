"""Random draws of real images, in the value space of the model."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from dd_plugins.data.preprocess import Transform, to_unit_range
from dd_plugins.data.streamed import ImageSource, StreamedImages
from dd_plugins.data.subsets import class_members
from dd_plugins.errors import OptionError
from dd_plugins.runtime.memory import fits_on
from dd_plugins.runtime.randomness import generator_for

__all__ = ["Batch", "RealSampler"]

_MOST_STREAMS = 8  # each has workers of its own


class Batch(NamedTuple):
    """A draw of real data in the value space of the model.

    Attributes:
        images: float32 of shape ``(b, channels, height, width)``.
        labels: int64 of shape ``(b,)``.
    """

    images: Tensor
    labels: Tensor


class RealSampler:
    """A sampler of real images, in the value space of the model.

    Batches are drawn without replacement, epoch after epoch. A draw is a function of
    the seed and the step alone. A batch is divided among the processes of a run: each
    gets every ``ranks``-th image of it.

    Args:
        images: uint8 or any floating dtype, of shape
            ``(n, channels, height, width)``.
        labels: int64 of shape ``(n,)``.
        seed: the seed of the run.
        device: the device of batches.
        transform: maps a batch to the value space; None if images are in it.
        source: the images as pixels, uint8 or float in [0, 1], if ``images`` are in the
            value space already; by default ``images``.
        content: an identifier of the images: the data's fingerprint and its
            preprocessing. Results depending on the images alone may be kept under it.
        rank: the number of this process.
        ranks: the number of processes.
        class_names: the names of all classes, for errors; by default their numbers.
    """

    def __init__(
        self,
        images: ImageSource,
        labels: Tensor,
        *,
        seed: int,
        device: torch.device,
        transform: Transform | None = None,
        source: ImageSource | None = None,
        content: str | None = None,
        rank: int = 0,
        ranks: int = 1,
        class_names: Sequence[str] = (),
    ) -> None:
        self.content, self.class_names = content, class_names
        self._rank, self._ranks = rank, ranks
        self._images = images
        self._source = images if source is None else source
        if isinstance(images, Tensor):
            self._images = _on_device_if_it_fits(images, device)
        self._labels = labels.to(device)
        self._device = device
        self._transform = None if transform is None else transform.to(device)
        self._streams: list[_Stream] = []  # the last used one at the end
        self._members = class_members(labels)

        @lru_cache(maxsize=4)
        def order(purpose: str, epoch: int, size: int) -> Tensor:
            return torch.randperm(size, generator=generator_for(seed, purpose, epoch))

        self._order = order

    @property
    def labels(self) -> Tensor:
        """The labels of all images, int64 on the CPU."""
        return self._labels.cpu()

    @property
    def classes(self) -> list[int]:
        """The classes with real images, sorted."""
        return [label for label, each in enumerate(self._members) if len(each)]

    @property
    def maps_batches(self) -> bool:
        """Whether each batch is mapped to the value space, not all images once."""
        return self._transform is not None

    def read(self, indices: Tensor) -> Batch:
        """Return the images at these indices, the same in every process.

        Args:
            indices: int64 of shape ``(b,)``, on any device.
        """
        near = indices.to(self._device)
        images = self._images
        on_device = isinstance(images, Tensor) and images.device == near.device
        return self._batch(images[near if on_device else indices.cpu()], near)

    def pixels(self, indices: Tensor) -> Tensor:
        """Return the images at these indices as pixels, before they are mapped.

        Returns:
            float32 in [0, 1], of shape ``(n, channels, height, width)``, on the device.
        """
        return to_unit_range(self._source[indices.cpu()].to(self._device))

    def close(self) -> None:
        """Stop the processes for reading ahead, if there are any."""
        self._streams = []  # their iterators hold them

    def batch(self, step: int, size: int) -> Batch:
        """Draw ``size`` images of any class; return all if there are fewer."""
        if isinstance(self._images, StreamedImages):
            return self._read_ahead(step, size)
        return self._draw("batch", step, size, self._everything)

    def class_batch(
        self, step: int, label: int, size: int, *, shared: bool = False
    ) -> Batch:
        """Draw ``size`` images of one class; return all if there are fewer.

        Args:
            step: the number of the draw.
            label: the class.
            size: the number of images.
            shared: whether every process gets all of them, not its part. A network kept
                by every process must see the same images in each.
        """
        purpose, members = f"batch of class {label}", self._members[label]
        if shared:
            return self.read(self._drawn_by_all(purpose, step, size, members))
        return self._draw(purpose, step, size, members)

    @cached_property
    def _everything(self) -> Tensor:
        """The indices of all images, made once: of millions it takes a while."""
        return torch.arange(len(self._labels))

    def _draw(self, purpose: str, step: int, size: int, members: Tensor) -> Batch:
        return self.read(self._own_part(purpose, step, size, members))

    def _read_ahead(self, step: int, size: int) -> Batch:
        """Draw from a stream of batches, read ahead by workers step by step.

        Each reader with steps of its own has a stream, such as an architecture of
        MetaDD.
        """
        assert isinstance(self._images, StreamedImages)
        part = partial(self._own_part, "batch", size=size, members=self._everything)
        wanted = (step, size)
        fitting = [each for each in self._streams if each.coming == wanted]
        if fitting:
            stream = fitting[0]
            self._streams.remove(stream)
        else:
            draws = (part(later) for later in itertools.count(step))
            stream = _Stream(self._images.batches(draws), wanted)
        images = next(stream.batches)
        stream.coming = (step + 1, size)
        self._streams = [*self._streams, stream][-_MOST_STREAMS:]
        return self._batch(images, part(step).to(self._device))

    def _own_part(self, purpose: str, step: int, size: int, members: Tensor) -> Tensor:
        """Return the indices of this process's images in a draw.

        Raises:
            OptionError: the draw has fewer images than there are processes.
        """
        total = len(members)
        if min(size, total) < self._ranks:
            raise OptionError(
                "a draw needs at least one real image for each process, got "
                f"{min(size, total)} for {self._ranks} processes; draw more, or use "
                "fewer processes"
            )
        drawn = self._drawn_by_all(purpose, step, size, members)
        return drawn[self._rank :: self._ranks]

    def _drawn_by_all(
        self, purpose: str, step: int, size: int, members: Tensor
    ) -> Tensor:
        """Return the indices of the images in a draw, those of all processes."""
        total = len(members)
        if size >= total:
            return members
        epoch, offset = divmod(step * size, total)
        order = self._order(purpose, epoch, total)[offset : offset + size]
        if len(order) < size:
            rest = self._order(purpose, epoch + 1, total)[: size - len(order)]
            order = torch.cat([order, rest])
        return members[order]

    def _batch(self, images: Tensor, indices: Tensor) -> Batch:
        images = images.to(self._device)
        if images.is_floating_point():
            images = images.float()
        if self._transform is not None:
            images = self._transform(images)
        return Batch(
            images.contiguous(memory_format=torch.channels_last),
            self._labels[indices],
        )


@dataclass(eq=False)
class _Stream:
    """Batches read ahead, and the step and size of the next one."""

    batches: Iterator[Tensor]
    coming: tuple[int, int]


def _on_device_if_it_fits(images: Tensor, device: torch.device) -> Tensor:
    """Move images to a GPU if half of its free memory holds them; else leave them.

    Then only indices travel to the GPU at each step.
    """
    moves = device.type == "cuda" and fits_on(device, images.nbytes)
    return images.to(device) if moves else images
