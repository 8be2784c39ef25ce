"""The base classes of parametrizations."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.networks.base import ImageShape
from dd_plugins.run import Run
from dd_plugins.runtime.memory import fits_in_memory
from dd_plugins.spec import Record, record
from dd_plugins.synthetic.leaves import Codec

__all__ = [
    "AbstractParametrization",
    "AbstractReadable",
    "Identity",
    "check_room",
    "clamped",
    "evenly_spaced",
    "shapes_of",
]


_DECODING = 4 * 4  # bytes for each value: float32, with three temporary copies


class AbstractParametrization(Record, ABC):
    """A representation of images, learned in place of pixels and decoded to them.

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
        """Return the number of values of one stored image; here those of an image.

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
            real: real images, to fit the codec or train a generator.
            transform: maps pixels in [0, 1] to the value space of the model and back.

        Raises:
            OptionError: these images cannot be encoded.
        """


class AbstractReadable(AbstractParametrization):
    """A parametrization saved in the file of a set, decoded by any installation."""

    @abstractmethod
    def read(
        self,
        stored: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        transform: Transform,
    ) -> Tensor:
        """Decode the images of a file to the value space.

        Args:
            stored: the parameters in the file, by name; unchecked.
            constants: further tensors in the file for decoding, by name; unchecked.
            transform: the map to the value space.

        Raises:
            OptionError: images of this shape cannot be encoded, or do not fit into
                memory.
            ValueError: the tensors do not fit this parametrization.
        """


@record
class Identity(AbstractParametrization):
    """Pixels are stored as they are, in the value space of the model."""

    name = "identity"

    def codec(self, run: Run, real: RealSampler, transform: Transform) -> None:
        """Return None: the pixels are the parameters."""
        del run, real, transform


def check_room(count: int, shape: ImageShape) -> None:
    """Refuse to decode images that do not fit into memory.

    Args:
        count: the number of images.
        shape: their channels, height and width.

    Raises:
        OptionError: they take more than half of the memory.
    """
    if not fits_in_memory(_DECODING * count * math.prod(shape)):
        raise OptionError(
            f"expected images that can be decoded in half of the memory, got {count:,} "
            f"of shape {tuple(shape)}"
        )


def clamped(standardised: Tensor, transform: Transform) -> Tensor:
    """Clamp standardised pixels to the range [0, 1] of pixels.

    Args:
        standardised: float32 ``(n, channels, height, width)``.
        transform: the map with this standardisation.
    """
    mean, deviation = (
        each.to(standardised.device).view(-1, 1, 1)
        for each in (transform.mean, transform.deviation)
    )
    pixels = (standardised * deviation + mean).clamp(0, 1)
    return (pixels - mean) / deviation


def evenly_spaced(real: RealSampler, most: int) -> Tensor:
    """Return evenly spaced indices of real images, or all if there are fewer.

    Args:
        real: all training images.
        most: the largest number of indices.
    """
    count = len(real.labels)
    return torch.linspace(0, count - 1, min(count, most)).long()


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor, for messages."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
