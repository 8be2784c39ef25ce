"""The base classes of decoders: autoencoders with several layers for latents."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from dd_plugins.errors import PluginError
from dd_plugins.networks.base import ImageShape
from dd_plugins.runtime.device import channels_last
from dd_plugins.runtime.randomness import seeded_globally
from dd_plugins.spec import Record

__all__ = ["AbstractDecoder", "LatentDecoder"]


class LatentDecoder(nn.Module, ABC):
    """A module decoding latents to images, and encoding images to latents.

    Images are standardised pixels, float32 of shape ``(n, channels, height, width)``.
    Each image has latents and a style: a vector read by every layer, and initialised
    with the style of the image's class.

    Attributes:
        layers: the number of layers where latents may enter; 0 is the first.
    """

    layers: int

    @abstractmethod
    def encode(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents of images at layer 0, and their styles.

        Args:
            images: standardised pixels.
            classes: int64 of shape ``(n,)``.

        Returns:
            Latents of shape ``(n, ...)``, and styles of shape ``(n, s)``.
        """

    @abstractmethod
    def advance(self, latents: Tensor, styles: Tensor, layer: int) -> Tensor:
        """Return the latents at a layer, computed from latents at layer 0."""

    @abstractmethod
    def decode(self, latents: Tensor, styles: Tensor, layer: int) -> Tensor:
        """Decode latents at a layer to images; differentiable in latents and styles."""


class AbstractDecoder(Record, ABC):
    """An architecture of decoders with its options; :meth:`build` makes a module of it.

    A class is registered by the hook ``dd_register_decoders`` under ``name``.
    """

    @abstractmethod
    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> LatentDecoder:
        """Make a freshly initialised module on the CPU.

        Called with the global CPU random state seeded from ``generator``: torch's own
        initialisers may be used.

        Args:
            image_shape: channels, height and width.
            num_classes: the number of classes of images.
            generator: draws the initial weights.

        Raises:
            OptionError: the images are too small for this architecture.
        """

    def build(
        self,
        image_shape: ImageShape,
        num_classes: int,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> LatentDecoder:
        """Make a fresh module; the global random state stays as it was.

        Args:
            image_shape: channels, height and width.
            num_classes: the number of classes of images.
            generator: draws the initial weights, on the CPU.
            device: the device to move the module to, channels last; None to leave it on
                the CPU as it is.

        Raises:
            OptionError: the images are too small for this architecture.
            PluginError: :meth:`construct` returned something else.
        """
        with seeded_globally(generator):
            module = self.construct(image_shape, num_classes, generator=generator)
        if not isinstance(module, LatentDecoder) or module.layers < 1:
            raise PluginError(
                f"{self.name}.construct must return a LatentDecoder of at least one "
                f"layer, got {type(module).__name__}"
            )
        return module if device is None else channels_last(module, device)
