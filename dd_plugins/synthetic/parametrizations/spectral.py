"""Images stored as their largest cosine coefficients."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.functional.cosine import cosine_transform, inverse_cosine_transform
from dd_plugins.networks.base import ImageShape
from dd_plugins.run import Run
from dd_plugins.spec import record
from dd_plugins.synthetic.leaves import Codec
from dd_plugins.synthetic.parametrizations.base import (
    AbstractReadable,
    check_room,
    clamped,
    evenly_spaced,
    shapes_of,
)

__all__ = ["Spectral"]

_MEASURED = 2_000  # real images whose coefficients are measured
_CHUNK = 200  # of them at a time
_ROUNDING = 1e-9
_LEAST_ROOT = 1e-5  # of the largest one


@record
class Spectral(AbstractReadable):
    """Each stored image holds the cosine coefficients of several images.

    Channels are made independent, and transformed by an orthonormal DCT-II. Every image
    keeps the same coefficients, those with the largest mean square in real images. The
    same number of values thus gives more, and smoother, images. Coefficients are
    divided by their root mean square, so a learning rate has the same effect on low and
    high frequencies.

    Args:
        keep: the fraction of an image's coefficients to keep, from a millionth to 1. A
            stored image holds as many images as fit in the values of one: 4 at a
            quarter.

    Reference: Shin, Shin, Moon, "Frequency Domain-based Dataset Distillation" (FReD),
    NeurIPS 2023, arXiv 2311.08819, section 3.

    Differences: FReD keeps the coefficients of each channel, and counts explained
    variance about the mean; here channels are first rotated to the axes of their
    covariance, to put most of a colour image into one of them, and squares are about 0.
    """

    name = "spectral"

    keep: Annotated[float, Field(ge=1e-6, le=1)] = 0.25

    @property
    def images_per_stored(self) -> int:
        """The number of images stored in the values of one."""
        return int(1 / self.keep + _ROUNDING)

    def values_per_stored(self, image_shape: ImageShape, num_classes: int) -> int:
        """Return the number of coefficients of all images in a stored one.

        Raises:
            OptionError: not one coefficient of an image is kept.
        """
        del num_classes
        return self.images_per_stored * self._count(image_shape)

    def _count(self, image_shape: ImageShape) -> int:
        """Return the number of kept coefficients of an image."""
        count = int(self.keep * math.prod(image_shape) + _ROUNDING)
        if not count:
            raise OptionError(
                f"{self!r}: expected to keep a coefficient of {image_shape} images, "
                f"got less than one; the least is {1 / math.prod(image_shape):.3g}"
            )
        return count

    def codec(self, run: Run, real: RealSampler, transform: Transform) -> Codec:
        """Return the codec of the largest coefficients in real images."""
        count = self._count(run.task.image_shape)
        constants = _measured(real, transform, count)
        return Codec(
            encode=lambda images, classes: {
                "coefficients": self.encode(images, constants, transform)
            },
            decode=lambda stored: self.decode(stored, constants, transform),
            images_per_stored=self.images_per_stored,
            clamp=lambda stored: self._clamp(stored, constants, transform),
            constants=constants,
        )

    def encode(
        self, images: Tensor, constants: Mapping[str, Tensor], transform: Transform
    ) -> Tensor:
        """Return the coefficients of images.

        Args:
            images: ``(n * images_per_stored, channels, height, width)`` in the value
                space.
            constants: ``colours`` and ``scales``.
            transform: the map to the value space.

        Returns:
            ``(n, images_per_stored, kept)``: the kept coefficients, ordered by
            frequency, divided by their root mean square in real images.
        """
        return self._of_standardised(transform.to_standardised(images), constants)

    def decode(
        self,
        stored: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        transform: Transform,
    ) -> Tensor:
        """Decode coefficients to images in the value space."""
        return transform.from_standardised(
            _to_standardised(stored["coefficients"], constants)
        )

    def read(
        self,
        stored: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        transform: Transform,
    ) -> Tensor:
        """Decode the images of a file of coefficients."""
        if sorted(constants) != ["colours", "scales"] or constants["scales"].ndim != 3:
            raise ValueError(
                "expected decoder.colours and decoder.scales with three dimensions, "
                f"got {shapes_of(constants)}"
            )
        scales, colours = constants["scales"], constants["colours"]
        if colours.shape != (len(scales), len(scales)):
            raise ValueError(
                f"expected decoder.colours of shape {(len(scales), len(scales))}, got "
                f"{tuple(colours.shape)}"
            )
        channels, height, width = scales.shape
        if not scales.numel():
            raise ValueError(f"expected decoder.scales, got {tuple(scales.shape)}")
        count = self._count((channels, height, width))
        if (scales < 0).any() or int((scales > 0).sum()) != count:
            raise ValueError(
                f"expected decoder.scales with {count} above 0 and none below, got "
                "others"
            )
        form = (self.images_per_stored, count)
        coefficients = stored.get("coefficients")
        if len(stored) != 1 or coefficients is None or coefficients.shape[1:] != form:
            raise ValueError(
                f"expected stored.coefficients of shape (n, {form[0]}, {form[1]}), got "
                f"{shapes_of(stored)}"
            )
        check_room(len(coefficients) * form[0], (channels, height, width))
        return self.decode(stored, constants, transform)

    def _of_standardised(
        self, images: Tensor, constants: Mapping[str, Tensor]
    ) -> Tensor:
        scales = constants["scales"]
        waves = cosine_transform(images, constants["colours"])
        kept = waves.flatten(1)[:, scales.flatten() > 0]
        kept = kept / scales[scales > 0]
        return kept.view(-1, self.images_per_stored, kept.shape[1])

    def _clamp(
        self,
        stored: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        transform: Transform,
    ) -> None:
        """Clamp images to pixels in [0, 1], as far as the kept coefficients allow."""
        coefficients = stored["coefficients"]
        moved = clamped(_to_standardised(coefficients, constants), transform)
        coefficients.copy_(self._of_standardised(moved, constants))


def _to_standardised(coefficients: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
    """Return the standardised pixels of coefficients."""
    scales = constants["scales"]
    values = coefficients.flatten(0, 1) * scales[scales > 0]
    places = (scales.flatten() > 0).nonzero().flatten()
    waves = values.new_zeros(len(values), scales.numel())
    waves = waves.index_copy(1, places, values)
    return inverse_cosine_transform(waves.view(-1, *scales.shape), constants["colours"])


def _measured(real: RealSampler, transform: Transform, count: int) -> dict[str, Tensor]:
    """Return the colours, and the scales of the kept coefficients.

    Args:
        real: all training images.
        transform: the map to their value space.
        count: the number of coefficients to keep.

    Returns:
        ``colours`` of shape ``(channels, channels)``; ``scales`` of shape ``(channels,
        height, width)``: the root mean square of each coefficient, 0 where it is not
        kept.
    """
    indices = evenly_spaced(real, _MEASURED)

    def images() -> Iterator[Tensor]:
        for start in range(0, len(indices), _CHUNK):
            pixels = real.pixels(indices[start : start + _CHUNK])
            # Not every accelerator has float64.
            yield transform.standardize(pixels).cpu().double()

    by_channel = (each.transpose(0, 1).flatten(1) for each in images())
    products = torch.stack([each @ each.mT for each in by_channel]).sum(dim=0)
    colours = torch.linalg.eigh(products).eigenvectors.mT.contiguous()
    sums = (cosine_transform(each, colours).square().sum(dim=0) for each in images())
    squares = torch.stack(list(sums)).sum(dim=0) / len(indices)
    kept = squares.flatten().topk(count).indices
    scales = torch.zeros_like(squares.flatten())
    # A coefficient with only rounding errors in real images is not scaled.
    roots = squares.flatten()[kept].sqrt()
    scales[kept] = torch.where(roots > _LEAST_ROOT * roots.max(), roots, 1)
    found = {
        "colours": colours.float(),
        "scales": scales.float().view(squares.shape),
    }
    return {name: each.to(transform.mean.device) for name, each in found.items()}
