"""Parametrizations: what is stored and learned in place of pixels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.run import Run
from dd_plugins.spec import Record, read, record
from dd_plugins.synthetic.leaves import Codec

__all__ = [
    "AbstractParametrization",
    "Identity",
    "Packed",
    "decoded",
    "decodes_alone",
]


class AbstractParametrization(Record, ABC):
    """What is learned in place of pixels, and how it becomes pixels.

    A subclass is a frozen record of options (see :func:`dd_plugins.record`), registered
    by the hook ``dd_register_parametrizations`` under ``name``. Any distiller runs with
    any parametrization: the distiller sees decoded images, and its gradient is led back
    to what is stored, a chunk at a time.
    """

    @property
    def images_per_stored(self) -> int:
        """Images that one stored image decodes to; 1 here."""
        return 1

    @abstractmethod
    def codec(self, run: Run, real: RealSampler, transform: Transform) -> Codec | None:
        """Return how images are encoded and decoded in a run; None if they are not.

        Called once, before the set is made; also before a resume.

        Args:
            run: the run.
            real: real images, for a generator that is trained or found by them.
            transform: maps pixels in [0, 1] to the value space of the model and back.

        Raises:
            OptionError: the images of this run cannot be encoded so.
        """


@record
class Identity(AbstractParametrization):
    """Pixels are stored as they are, in the value space of the model."""

    name = "identity"

    def codec(self, run: Run, real: RealSampler, transform: Transform) -> None:
        """Return none: the pixels are the parameters."""
        del run, real, transform


@record
class Packed(AbstractParametrization):
    """Each stored image holds ``factor`` x ``factor`` smaller ones.

    A smaller one becomes an image by bilinear upsampling of its pixels, whatever the
    value space: whitening, if there is any, comes after. The same number of values
    thus gives more, and smoother, images.

    Args:
        factor: smaller images along each side, 2 to 8; it must divide height and
            width.

    Reference: Kim et al., "Dataset Condensation via Efficient Synthetic-Data
    Parameterization" (IDC), ICML 2022, arXiv 2205.14959, section 4 ("multi-formation").
    """

    name = "packed"

    factor: int = Field(default=2, ge=2, le=8)

    @property
    def images_per_stored(self) -> int:
        """The square of the factor."""
        return self.factor**2

    def codec(self, run: Run, real: RealSampler, transform: Transform) -> Codec:
        """Return the codec of grids of smaller images."""
        del real
        _, height, width = run.task.image_shape
        if height % self.factor or width % self.factor:
            raise OptionError(
                f"{self!r}: expected images with a height and width divisible by "
                f"{self.factor}, got {height}x{width}"
            )
        return Codec(
            encode=lambda images: {"grids": self.encode(images, transform)},
            decode=lambda stored: self.decode(stored, transform),
            images_per_stored=self.images_per_stored,
            clamp=lambda stored: _clamp(stored["grids"], transform),
        )

    def encode(self, images: Tensor, transform: Transform) -> Tensor:
        """Return grids of images, each made smaller by averaging.

        Args:
            images: ``(n * factor**2, channels, height, width)`` in the value space.
            transform: of that value space.

        Returns:
            ``(n, channels, height, width)``: pixels, standardised by channel, so that a
            learning rate means the same as for pixels.
        """
        small = F.avg_pool2d(transform.standardised(images), self.factor)
        count, channels, height, width = small.shape
        grid = small.view(-1, self.factor, self.factor, channels, height, width)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(
            count // self.images_per_stored,
            channels,
            self.factor * height,
            self.factor * width,
        )

    def decode(self, stored: Mapping[str, Tensor], transform: Transform) -> Tensor:
        """Return the images of grids, in the value space: row by row of each grid."""
        grids = stored["grids"]
        count, channels, height, width = grids.shape
        small = grids.reshape(
            count,
            channels,
            self.factor,
            height // self.factor,
            self.factor,
            width // self.factor,
        )
        small = small.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        large = F.interpolate(
            small, size=(height, width), mode="bilinear", align_corners=False
        )
        return transform.whitened(large)


def _clamp(grids: Tensor, transform: Transform) -> None:
    """Move standardised pixels into [0, 1]; an upsampled image lies between its own."""
    mean, deviation = (
        each.to(grids.device).view(-1, 1, 1)
        for each in (transform.mean, transform.deviation)
    )
    grids.mul_(deviation).add_(mean).clamp_(0, 1).sub_(mean).div_(deviation)


def decodes_alone(parametrization: AbstractParametrization) -> bool:
    """Tell whether a file of parameters is enough to decode a set anywhere.

    It is for :class:`Packed` alone. A set that needs a generator, or code of a plugin,
    is saved in decoded form.
    """
    return isinstance(parametrization, Packed)


def decoded(
    spec: str, stored: Mapping[str, Tensor], transform: Transform, images: int
) -> Tensor:
    """Return the images that a file holds in encoded form.

    Args:
        spec: the spec of the parametrization.
        stored: its parameters, by name.
        transform: the map to the value space.
        images: the expected number of images.

    Raises:
        OptionError: the spec is of no parametrization that a file may hold.
        ValueError: the parameters are not of its form.
    """
    packed = read(Packed, spec, "packed(factor=2)")
    if list(stored) != ["grids"] or stored["grids"].ndim != 4:
        shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
        raise ValueError(f"expected stored.grids with four dimensions, got {shapes}")
    count, _, height, width = stored["grids"].shape
    if height % packed.factor or width % packed.factor:
        raise ValueError(
            f"{packed!r}: expected a height and width divisible by {packed.factor}, "
            f"got {height}x{width}"
        )
    if count * packed.images_per_stored != images:
        raise ValueError(
            f"{count} stored images decode to {count * packed.images_per_stored}, "
            f"expected {images}"
        )
    return packed.decode(stored, transform)
