"""Views of images: reproducible random crops, mixed or not."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from dd_plugins.functional.augment import crop_sides, with_box
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.spec import Record, read, record

__all__ = ["Views", "get_views"]


@record
class Views(Record):
    """Views of images: random crops, each a function of (seed, view, image).

    No box is stored, since each can be drawn again. A crop is scaled bilinearly to the
    size of the image, and flipped in half of the cases if the data allow it. With
    ``mix`` each crop is mixed with the crop of a partner, another image drawn for each
    view.

    Args:
        count: the number of views of each image; an epoch of training takes one.
        seed: the seed of the crops, the partners and the shares.
        smallest: the area of the smallest crop, as a fraction of the image in (0, 1].
        crop: ``"resized"`` for a part of the image, scaled up; ``"padded"`` for the
            image, padded with zeros and shifted by up to an eighth of its side.
        mix: ``"cutmix"`` puts a box of the partner into the crop (Yun et al., arXiv
            1905.04899); ``"mixup"`` blends the two (Zhang et al., arXiv 1710.09412);
            ``"none"`` leaves the crop alone.
        alpha: the share of an image in its mixed view is drawn from Beta(alpha,
            alpha); 1 draws it uniformly from [0, 1].

    Reference: Yin et al., "Squeeze, Recover and Relabel" (SRe2L), NeurIPS 2023, arXiv
    2306.13092, section 3.3.

    Differences: there boxes are stored, and all images of a batch are mixed with the
    same share and box; here each image has its own, so views do not depend on batches.
    """

    name = "views"

    count: PositiveInt
    seed: int = 0
    smallest: float = Field(default=0.08, gt=0, le=1)
    crop: Literal["resized", "padded"] = "resized"
    mix: Literal["none", "cutmix", "mixup"] = "none"
    alpha: PositiveFloat = 1.0

    def look(
        self, images: Tensor, indices: Tensor, number: int, *, mirror: bool
    ) -> Tensor:
        """Return one view of some images.

        Args:
            images: all images of the set, ``(n, channels, height, width)``.
            indices: int64 ``(b,)``: the images to view.
            number: the view's number, in [0, ``count``).
            mirror: whether crops may be flipped.

        Returns:
            Shape ``(b, channels, height, width)``.
        """
        if self.mix == "none":
            return self._crops(images, indices, number, mirror)
        partners = self.partners(len(images), number)[indices]
        # Most partners are among the images, with the same crops.
        both, places = torch.unique(torch.cat([indices, partners]), return_inverse=True)
        made = self._crops(images, both, number, mirror)
        crops, others = torch.split(made[places], len(indices))
        return torch.cat(
            [
                self._mixed(crop[None], other[None], number, index)[0]
                for crop, other, index in zip(
                    crops, others, indices.tolist(), strict=True
                )
            ]
        )

    def mixed_labels(
        self, labels: Tensor, indices: Tensor, number: int, size: tuple[int, int]
    ) -> Tensor:
        """Return the labels of one view of some images, mixed by the shares of pixels.

        Args:
            labels: of all images, float ``(n, classes)``.
            indices: int64 ``(b,)``: the images to view.
            number: the view's number.
            size: height and width of the images; a box ends at their edges.
        """
        if self.mix == "none":
            return labels[indices]
        partners = self.partners(len(labels), number)[indices]
        blank = torch.zeros(1, 1, *size)
        shares = [
            self._mixed(blank, blank, number, index)[1] for index in indices.tolist()
        ]
        share = torch.tensor(shares, device=labels.device)[:, None]
        return share * labels[indices] + (1 - share) * labels[partners]

    def partners(self, count: int, number: int) -> Tensor:
        """Return the index of the partner of each of ``count`` images.

        The partner is the next image in one random order, so no image is its own
        partner if there are at least two.
        """
        order = self.order(count, number)
        partners = torch.empty_like(order)
        partners[order] = order.roll(-1)
        return partners

    def order(self, count: int, number: int) -> Tensor:
        """Return a random order of ``count`` images for a view: int64, by the seed."""
        generator = generator_for(self.seed, "order of a view", number)
        return torch.randperm(count, generator=generator)

    def _crops(
        self, images: Tensor, indices: Tensor, number: int, mirror: bool
    ) -> Tensor:
        size = images.shape[-2:]
        parts = []
        for image, index in zip(images[indices], indices.tolist(), strict=True):
            generator = generator_for(self.seed, "view", number, index)
            crop = self._crop(image[None], generator, mirror)
            if crop.shape[-2:] != size:
                crop = F.interpolate(crop, size=size, mode="bilinear")
            parts.append(crop)
        return torch.cat(parts)

    def _crop(self, image: Tensor, generator: torch.Generator, mirror: bool) -> Tensor:
        height, width = image.shape[-2:]
        area, shape, down, right, flipped = torch.rand(5, generator=generator).tolist()
        if self.crop == "padded":
            tall, wide = max(1, height // 8), max(1, width // 8)
            image = F.pad(image, (wide, wide, tall, tall))
            rows, columns = height, width
            top, left = int(down * (2 * tall + 1)), int(right * (2 * wide + 1))
        else:
            area = self.smallest + area * (1 - self.smallest)
            tall_part, wide_part = crop_sides(area, shape)
            rows = min(height, max(1, round(height * tall_part)))
            columns = min(width, max(1, round(width * wide_part)))
            top = round(down * (height - rows))
            left = round(right * (width - columns))
        crop = image[..., top : top + rows, left : left + columns]
        return crop.flip(-1) if mirror and flipped < 0.5 else crop

    def _mixed(
        self, crop: Tensor, other: Tensor, number: int, index: int
    ) -> tuple[Tensor, float]:
        """Return a mixed crop, and the share of the image in it."""
        generator = generator_for(self.seed, "mixture of a view", number, index)
        seed = int(torch.randint(2**62, (), generator=generator))
        draws = np.random.default_rng(seed)
        share = float(draws.beta(self.alpha, self.alpha))
        if self.mix == "mixup":
            return share * crop + (1 - share) * other, share
        return with_box(crop, other, share, draws.random(2).tolist())


def get_views(spec: str) -> Views:
    """Build the views described by a spec.

    Raises:
        OptionError: the spec describes no views, or an option is out of its range.

    Example:
        >>> get_views("views(count=3)").smallest
        0.08
    """
    return read(Views, spec, "views(count=300)")
