"""Views of images: random crops that can be drawn again."""

import math

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from dd_plugins.runtime.randomness import generator_for
from dd_plugins.spec import Record, read, record

__all__ = ["Views", "get_views"]

_NARROWEST = 3 / 4  # width by height of a crop; the widest is its inverse


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
            self._crop(
                image[None], generator_for(self.seed, "view", number, index), mirror
            )
            for image, index in zip(images, indices.tolist(), strict=True)
        ]
        return torch.cat(
            [F.interpolate(crop, size=size, mode="bilinear") for crop in crops]
        )

    def _crop(self, image: Tensor, generator: torch.Generator, mirror: bool) -> Tensor:
        height, width = image.shape[-2:]
        area, shape, down, right, flipped = torch.rand(5, generator=generator).tolist()
        area = self.smallest + area * (1 - self.smallest)
        # A large crop has nearly the shape of the image: a narrower one would be longer
        # than the image, and lose area where it is cut.
        widest = -math.log(max(_NARROWEST, area))
        ratio = math.exp((2 * shape - 1) * widest)
        rows = min(height, max(1, round(height * math.sqrt(area / ratio))))
        columns = min(width, max(1, round(width * math.sqrt(area * ratio))))
        top = round(down * (height - rows))
        left = round(right * (width - columns))
        crop = image[..., top : top + rows, left : left + columns]
        return crop.flip(-1) if mirror and flipped < 0.5 else crop


def get_views(spec: str) -> Views:
    """Return the views that a spec stands for.

    Raises:
        OptionError: the spec is not one of views, or an option is out of its range.

    Example:
        >>> get_views("views(count=3)").smallest
        0.08
    """
    return read(Views, spec, "views(count=300)")
