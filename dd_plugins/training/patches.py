"""Crops of real images, chosen by a teacher, for the images of RDED."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_plugins.data.sampler import RealSampler
from dd_plugins.data.subsets import class_members
from dd_plugins.runtime.randomness import generator_for

__all__ = ["PatchChoice", "Patches", "Realism"]

_SCORED = 250  # crops scored at a time
_READ = 500  # real images read at a time

Realism = Literal["best", "medium"]
"""The choice of crops: of the least loss, or around the median."""

Read = Callable[[Tensor], Tensor]
"""Maps indices of real images to these images in the value space."""


@dataclass(frozen=True)
class PatchChoice:
    """How crops are chosen.

    Several crops of each candidate image, with the aspect ratio of the image, are
    scored by a teacher's loss for the class. The best crop of each image is kept; from
    these the best are chosen, or those around the median. The first place of all images
    of a class is filled from them, in order of the loss, then the second, and so on.

    Attributes:
        factor: the number of crops along each side of an assembled image.
        candidates: the number of scored images of a class; more if more are needed.
        crops: the number of crops of each candidate.
        smallest: the area of the smallest crop, as a fraction of the image in (0, 1].
        realism: the rule of the choice.
        seed: the seed of candidates and crops.

    Reference: Sun et al., "On the Diversity and Realism of Distilled Dataset" (RDED),
    CVPR 2024, arXiv 2312.03526, and its released code.
    """

    factor: int
    candidates: int
    crops: int
    smallest: float
    realism: Realism
    seed: int

    def choose(
        self,
        modules: Sequence[nn.Module],
        real: RealSampler,
        counts: Sequence[int],
        *,
        each: int = 1,
    ) -> "Patches":
        """Choose the crops for a set.

        Args:
            modules: the teachers, mapping images in the value space to logits, in
                evaluation mode.
            real: all real images.
            counts: the number of images of the set for each class.
            each: the number of these images in a stored one.

        Raises:
            OptionError: a class has too few images for so many crops.
        """
        crops = self.factor**2
        classes = class_members(
            real.labels,
            [count * crops for count in counts],
            each=crops * each,
            class_names=real.class_names,
        )
        found, boxes = [], []
        for label, members in enumerate(classes):
            if not (wanted := counts[label] * crops):
                continue
            count = min(len(members), max(self.candidates, wanted))
            generator = generator_for(self.seed, "candidates", label)
            drawn = members[torch.randperm(len(members), generator=generator)[:count]]
            losses, best = self._best_crops(modules, real, drawn, label)
            order = losses.argsort(stable=True)
            first = (count - wanted) // 2 if self.realism == "medium" else 0
            by_place = order[first : first + wanted].view(-1, counts[label])
            chosen = by_place.T.flatten()
            found.append(drawn[chosen])
            boxes += [best[place] for place in chosen.tolist()]
        return Patches(torch.cat(found), boxes, self.factor)

    def _best_crops(
        self,
        modules: Sequence[nn.Module],
        real: RealSampler,
        indices: Tensor,
        label: int,
    ) -> tuple[Tensor, list["_Box"]]:
        """Return the least loss over the crops of each image, and the crop with it."""
        losses, boxes = [], []
        for part in torch.split(indices, max(1, _SCORED // self.crops)):
            images = real.read(part).images
            drawn = [
                box
                for index in part.tolist()
                for box in self._boxes(index, images.shape[-2], images.shape[-1])
            ]
            repeated = images.repeat_interleave(self.crops, dim=0)
            seen = torch.cat(
                [
                    _alone(image[None], box, self.factor)
                    for image, box in zip(repeated, drawn, strict=True)
                ]
            )
            found = _losses(modules, seen, label).view(len(part), self.crops)
            least = found.min(dim=1)
            losses.append(least.values.cpu())
            boxes += [
                drawn[row * self.crops + column]
                for row, column in enumerate(least.indices.tolist())
            ]
        return torch.cat(losses), boxes

    def _boxes(self, index: int, height: int, width: int) -> Iterator["_Box"]:
        """Yield the boxes of an image's crops, with the aspect ratio of the image."""
        generator = generator_for(self.seed, "crops", index)
        for _ in range(self.crops):
            area, down, right = torch.rand(3, generator=generator).tolist()
            side = math.sqrt(self.smallest + area * (1 - self.smallest))
            rows, columns = (max(1, round(side * size)) for size in (height, width))
            yield _Box(
                round(down * (height - rows)),
                round(right * (width - columns)),
                rows,
                columns,
            )


@dataclass(frozen=True)
class _Box:
    top: int
    left: int
    rows: int
    columns: int

    def of(self, image: Tensor, height: int, width: int) -> Tensor:
        """Return the crop of an image ``(1, c, h, w)``, scaled to a size."""
        bottom, right = self.top + self.rows, self.left + self.columns
        crop = image[..., self.top : bottom, self.left : right]
        if crop.shape[-2:] == (height, width):
            return crop
        return F.interpolate(
            crop, size=(height, width), mode="bilinear", antialias=True
        )


@dataclass(frozen=True)
class Patches:
    """Crops assembled into images, ``factor`` x ``factor`` in each.

    Attributes:
        indices: int64, the real image of each crop, class by class.
        boxes: the box of each crop.
        factor: the number of crops along each side of an image.
    """

    indices: Tensor
    boxes: list[_Box]
    factor: int

    @property
    def first_indices(self) -> Tensor:
        """The real image of the first crop of each image."""
        return self.indices[:: self.factor**2]

    def images(self, read: Read) -> Tensor:
        """Return the images: float32 ``(n, channels, height, width)``.

        Args:
            read: returns real images in the value space.
        """
        parts = []
        for places in torch.split(torch.arange(len(self.indices)), _READ):
            real = read(self.indices[places])
            size = real.shape[-2] // self.factor, real.shape[-1] // self.factor
            boxes = [self.boxes[place] for place in places.tolist()]
            crops = [
                box.of(image[None], *size)
                for image, box in zip(real, boxes, strict=True)
            ]
            parts.append(torch.cat(crops))
        joined = torch.cat(parts)
        _, channels, rows, columns = joined.shape
        grid = joined.view(-1, self.factor, self.factor, channels, rows, columns)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(
            -1, channels, self.factor * rows, self.factor * columns
        )


def _alone(image: Tensor, box: _Box, factor: int) -> Tensor:
    """Return a crop at its final size, in the middle of an image of zeros."""
    height, width = image.shape[-2:]
    rows, columns = height // factor, width // factor
    top, left = (height - rows) // 2, (width - columns) // 2
    crop = box.of(image, rows, columns)
    return F.pad(crop, (left, width - columns - left, top, height - rows - top))


@torch.no_grad()
def _losses(modules: Sequence[nn.Module], images: Tensor, label: int) -> Tensor:
    """Return the loss of each image for a class, averaged over the teachers."""
    classes = torch.full((len(images),), label, device=images.device)
    images = images.contiguous(memory_format=torch.channels_last)
    losses = [
        F.cross_entropy(module(images).float(), classes, reduction="none")
        for module in modules
    ]
    return torch.stack(losses).mean(dim=0)
