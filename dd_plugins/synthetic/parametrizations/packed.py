"""Packed images: each stored image holds several smaller ones."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.functional.resample import resize
from dd_plugins.networks.base import ImageShape
from dd_plugins.run import Run
from dd_plugins.spec import record
from dd_plugins.synthetic.leaves import Codec
from dd_plugins.synthetic.parametrizations.base import (
    AbstractReadable,
    check_room,
    clamped,
    shapes_of,
)

__all__ = ["Packed", "packed", "unpacked"]


@record
class Packed(AbstractReadable):
    """Each stored image holds ``factor`` x ``factor`` smaller ones.

    A smaller image is enlarged by bilinear upsampling of its pixels in every value
    space; any whitening comes after. The same number of values thus gives more, and
    smoother, images.

    Args:
        factor: the number of smaller images along each side, 2 to 8. If it does not
            divide height or width, the last images of a row or column lack some pixels,
            and their outermost pixels are repeated.

    Reference: Kim et al., "Dataset Condensation via Efficient Synthetic-Data
    Parameterization" (IDC), ICML 2022, arXiv 2205.14959, section 4 ("multi-formation").

    Differences: where the factor does not divide a side, the released code pads
    with grey; here the last pixels are repeated.
    """

    name = "packed"

    factor: int = Field(default=2, ge=2, le=8)

    @property
    def images_per_stored(self) -> int:
        """The square of the factor."""
        return self.factor**2

    def values_per_stored(self, image_shape: ImageShape, num_classes: int) -> int:
        """Return the number of values of an image.

        Raises:
            OptionError: a smaller image would have no pixel.
        """
        _, height, width = image_shape
        for side in (height, width):
            # Cells are rounded up: the last may lie beyond the edge.
            if (self.factor - 1) * -(-side // self.factor) >= side:
                raise OptionError(
                    f"{self!r}: expected images that hold {self.factor} smaller ones "
                    f"along each side, got {height}x{width}"
                )
        return super().values_per_stored(image_shape, num_classes)

    def codec(self, run: Run, real: RealSampler, transform: Transform) -> Codec:
        """Return the codec of grids of smaller images."""
        del real
        self.values_per_stored(run.task.image_shape, run.task.num_classes)
        return Codec(
            encode=lambda images, classes: {"grids": self.encode(images, transform)},
            decode=lambda stored: self.decode(stored, transform),
            images_per_stored=self.images_per_stored,
            clamp=lambda stored: _clamp(stored["grids"], transform),
        )

    def encode(self, images: Tensor, transform: Transform) -> Tensor:
        """Return grids of images, each made smaller by averaging.

        Args:
            images: ``(n * factor**2, channels, height, width)`` in the value space.
            transform: the map to the value space.

        Returns:
            ``(n, channels, height, width)``: pixels, standardised by channel, so a
            learning rate has the same effect as on pixels.
        """
        return packed(transform.to_standardised(images), self.factor)

    def decode(self, stored: Mapping[str, Tensor], transform: Transform) -> Tensor:
        """Decode grids to images in the value space, row by row of each grid."""
        return transform.from_standardised(unpacked(stored["grids"], self.factor))

    def read(
        self,
        stored: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        transform: Transform,
    ) -> Tensor:
        """Decode the images of a file of grids."""
        if list(stored) != ["grids"] or stored["grids"].ndim != 4:
            raise ValueError(
                f"expected stored.grids with four dimensions, got {shapes_of(stored)}"
            )
        if constants:
            raise ValueError(f"{self!r} needs no decoder, got {shapes_of(constants)}")
        count, channels, height, width = stored["grids"].shape
        self.values_per_stored((channels, height, width), 1)
        check_room(count * self.images_per_stored, (channels, height, width))
        return self.decode(stored, transform)


def packed(images: Tensor, factor: int) -> Tensor:
    """Return grids of images, row by row, each made smaller by averaging.

    Args:
        images: ``(n * factor**2, channels, height, width)``.
        factor: the number of smaller images along each side.

    Returns:
        ``(n, channels, height, width)``.
    """
    channels, height, width = images.shape[1:]
    cell = (-(-height // factor), -(-width // factor))
    small = F.interpolate(images, size=cell, mode="area")
    cells = small.view(-1, factor, factor, channels, *cell)
    grids = cells.permute(0, 3, 1, 4, 2, 5).reshape(
        len(cells), channels, factor * cell[0], factor * cell[1]
    )
    return grids[:, :, :height, :width].contiguous()


def unpacked(grids: Tensor, factor: int) -> Tensor:
    """Return the images in grids, row by row of each grid, enlarged bilinearly.

    Args:
        grids: ``(n, channels, height, width)``.
        factor: the number of smaller images along each side.

    Returns:
        ``(n * factor**2, channels, height, width)``.
    """
    count, channels, height, width = grids.shape
    down, right = -height % factor, -width % factor
    if down or right:
        grids = _with_last_pixels_repeated(grids, down, right)
    cell = (-(-height // factor), -(-width // factor))
    small = grids.reshape(count, channels, factor, cell[0], factor, cell[1])
    small = small.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return resize(small, (height, width))


def _with_last_pixels_repeated(grids: Tensor, down: int, right: int) -> Tensor:
    """Return grids with further rows below and further columns at the right."""
    if not grids.is_cuda:
        return F.pad(grids, (0, right, 0, down), mode="replicate")
    # The gradient of replicated pixels has no fixed order of sums there.
    return _extended(_extended(grids, -2, down), -1, right)


def _extended(grids: Tensor, dim: int, count: int) -> Tensor:
    """Return grids with ``count`` copies of the last pixels along a dimension."""
    last = grids.narrow(dim, grids.shape[dim] - 1, 1)
    return torch.cat([grids, *[last] * count], dim=dim)


def _clamp(grids: Tensor, transform: Transform) -> None:
    """Clamp pixels to [0, 1]; upsampling does not leave the range of its pixels."""
    grids.copy_(clamped(grids, transform))
