"""Labels per view: a teacher's labels of crops that can be made again."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, features_in_chunks
from dd_plugins.randomness import derive
from dd_plugins.recipes import Recipe
from dd_plugins.spec import Record, read, record

__all__ = ["Teacher", "ViewLabels", "Views", "get_views"]

_NARROWEST = 3 / 4  # width by height of a crop; the widest is its inverse
_LABELLED = 256  # views that a teacher looks at, at a time


@record
class Views(Record):
    """Views of images: random crops, each a function of (seed, view, image).

    No box is stored, for each can be drawn again. A crop is scaled to the size of the
    image bilinearly, and flipped in half of the cases where the data allow it.

    Args:
        count: views of each image; an epoch of training takes one.
        seed: of the boxes.
        smallest: area of the smallest crop, in (0, 1] of the image.

    Reference: Yin et al., "Squeeze, Recover and Relabel" (SRe2L), NeurIPS 2023, arXiv
    2306.13092, section 3.3; there boxes are stored.
    """

    name = "views"

    count: PositiveInt
    seed: int = 0
    smallest: float = Field(default=0.08, gt=0, le=1)

    def look(
        self, images: Tensor, indices: Tensor, number: int, *, mirror: bool
    ) -> Tensor:
        """Return one view of some images.

        Args:
            images: ``(b, channels, height, width)``.
            indices: int64 ``(b,)``: which images of the set they are.
            number: which view, in [0, ``count``).
            mirror: whether crops may be flipped.

        Returns:
            The same shape.
        """
        size = images.shape[-2:]
        crops = [
            self._crop(image[None], derive(self.seed, "view", number, index), mirror)
            for image, index in zip(images, indices.tolist(), strict=True)
        ]
        return torch.cat(
            [F.interpolate(crop, size=size, mode="bilinear") for crop in crops]
        )

    def _crop(self, image: Tensor, generator: torch.Generator, mirror: bool) -> Tensor:
        height, width = image.shape[-2:]
        area, shape, down, right, flipped = torch.rand(5, generator=generator).tolist()
        area = self.smallest + area * (1 - self.smallest)
        ratio = math.exp((2 * shape - 1) * -math.log(_NARROWEST))
        rows = min(height, max(1, round(height * math.sqrt(area / ratio))))
        columns = min(width, max(1, round(width * math.sqrt(area * ratio))))
        top = round(down * (height - rows))
        left = round(right * (width - columns))
        crop = image[..., top : top + rows, left : left + columns]
        return crop.flip(-1) if mirror and flipped < 0.5 else crop


@dataclass(frozen=True, eq=False)
class Teacher:
    """What gives labels to the views of a set.

    Attributes:
        module: in evaluation mode.
        views: of the images.
        temperature: by which its logits are divided before the softmax.
        network: the architecture; with ``recipe`` the key of a kept network
            (:class:`~dd_plugins.trained.TrainedNetwork`), by which it is found again
            when a network is trained on the set. None if the labels are to be stored.
        recipe: how it was trained on the real data; None likewise.
    """

    module: FeatureNetwork
    views: Views
    temperature: float = 1.0
    network: AbstractNetwork | None = None
    recipe: Recipe | None = None

    @torch.no_grad()
    def label(self, images: Tensor) -> Tensor:
        """Return float16 probabilities ``(b, classes)`` of images."""
        parts = [
            self.module.head(features_in_chunks(self.module, part)).float()
            for part in torch.split(images, _LABELLED)
        ]
        return (torch.cat(parts) / self.temperature).softmax(dim=1).half()

    def all_labels(self, images: Tensor, *, mirror: bool) -> Tensor:
        """Return the labels of all views: float16 ``(count, n, classes)``."""
        indices = torch.arange(len(images))
        return torch.stack(
            [
                self.label(self.views.look(images, indices, number, mirror=mirror))
                for number in range(self.views.count)
            ]
        )


@dataclass(frozen=True, eq=False)
class ViewLabels:
    """Labels of views while a network is trained: stored ones, or a teacher's.

    Attributes:
        views: of the images.
        stored: float16 ``(count, n, classes)``; None if a teacher gives them.
        label: the teacher; None if they are stored.
        mirror: whether crops may be flipped.
    """

    views: Views
    stored: Tensor | None
    label: Callable[[Tensor], Tensor] | None
    mirror: bool

    def of(self, images: Tensor, indices: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return one view of some images, and its labels (float32).

        Args:
            images: of the set, ``(b, channels, height, width)``.
            indices: int64 ``(b,)``: which they are.
            number: which view, counted on without end.
        """
        number %= self.views.count
        seen = self.views.look(images, indices, number, mirror=self.mirror)
        if self.stored is not None:
            return seen, self.stored[number, indices].float()
        assert self.label is not None
        return seen, self.label(seen).float()


def get_views(spec: str) -> Views:
    """Return the views that a spec stands for.

    Raises:
        OptionError: it is of no views, or an option is out of its range.

    Example:
        >>> get_views("views(count=3)").smallest
        0.08
    """
    return read(Views, spec, "views(count=300)")
