"""The base classes of parametrizations."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.networks.base import ImageShape
from dd_plugins.run import Run
from dd_plugins.spec import Record, record
from dd_plugins.synthetic.leaves import Codec

__all__ = [
    "AbstractParametrization",
    "AbstractReadable",
    "Identity",
    "clamped",
    "evenly_spaced",
    "shapes_of",
]


class AbstractParametrization(Record, ABC):
    """A form of images, learned in place of pixels and decoded to pixels.

    A subclass is a frozen record of options (see :func:`dd_plugins.record`), registered
    by the hook ``dd_register_parametrizations`` under ``name``. Any distiller runs with
    any parametrization: the distiller sees decoded images, and its gradient is pulled
    back to the stored parameters, a chunk at a time.
    """

    @property
    def images_per_stored(self) -> int:
        """The number of images decoded from one stored image; 1 here."""
        return 1

    def values_per_stored(self, image_shape: ImageShape, num_classes: int) -> int:
        """Return how many values one stored image has; here as many as an image.

        Args:
            image_shape: channels, height and width.
            num_classes: number of classes.

        Raises:
            OptionError: images of this shape cannot be encoded.
        """
        del num_classes
        return math.prod(image_shape)

    @abstractmethod
    def codec(self, run: Run, real: RealSampler, transform: Transform) -> Codec | None:
        """Return how images are encoded and decoded in a run; None if they are not.

        Called once, before the set is made; also before a resume.

        Args:
            run: the run.
            real: real images, for a generator trained on them.
            transform: maps pixels in [0, 1] to the value space of the model and back.

        Raises:
            OptionError: these images cannot be encoded.
        """


class AbstractReadable(AbstractParametrization):
    """A parametrization stored in the file; any installation decodes it."""

    @abstractmethod
    def read(
        self,
        stored: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        transform: Transform,
    ) -> Tensor:
        """Return the images of a file, in the value space.

        Args:
            stored: its parameters, by name; unchecked.
            constants: its further tensors for decoding; unchecked.
            transform: the map to the value space.

        Raises:
            OptionError: images of this shape cannot be encoded.
            ValueError: the tensors do not fit this parametrization.
        """


@record
class Identity(AbstractParametrization):
    """Pixels are stored as they are, in the value space of the model."""

    name = "identity"

    def codec(self, run: Run, real: RealSampler, transform: Transform) -> None:
        """Return none: the pixels are the parameters."""
        del run, real, transform


def clamped(standardised: Tensor, transform: Transform) -> Tensor:
    """Return standardised pixels, moved into [0, 1] as pixels.

    Args:
        standardised: float32 ``(n, channels, height, width)``.
        transform: whose standardisation it is.
    """
    mean, deviation = (
        each.to(standardised.device).view(-1, 1, 1)
        for each in (transform.mean, transform.deviation)
    )
    pixels = (standardised * deviation + mean).clamp(0, 1)
    return (pixels - mean) / deviation


def evenly_spaced(real: RealSampler, most: int) -> Tensor:
    """Return the indices of real images, evenly spaced; all if there are fewer.

    Args:
        real: all training images.
        most: how many indices at most.
    """
    count = len(real.labels)
    return torch.linspace(0, count - 1, min(count, most)).long()


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor, for messages."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
