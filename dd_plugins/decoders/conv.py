"""A small convolutional autoencoder with a class-conditional decoder."""

import itertools
import math

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from dd_plugins.decoders.base import AbstractDecoder, LatentDecoder
from dd_plugins.errors import OptionError
from dd_plugins.networks.base import ImageShape
from dd_plugins.spec import record

__all__ = ["ConvDecoder"]


@record
class ConvDecoder(AbstractDecoder):
    """A convolutional autoencoder, halving and doubling the sides of an image.

    Each stage of the decoder is a 3x3 convolution, with channels scaled and shifted by
    the style; every stage after the first doubles the sides before its convolution. The
    last layer maps the output of the last stage to pixels. Latents may enter at the
    first stage (layer 0, the narrowest), at any later one, or at the last layer.

    Args:
        width: channels of the last stage; each earlier stage has twice as many as the
            next.
        channels: the number of channels of the latents at layer 0.
        styles: the number of values of a style.
        depth: the number of halvings of the sides; by default enough to reach about 8
            pixels, at least one.
    """

    name = "conv_decoder"

    width: PositiveInt = 32
    channels: PositiveInt = 16
    styles: PositiveInt = 16
    depth: PositiveInt | None = None

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> LatentDecoder:
        """Make a module with He initialisation, so all layers keep the same scale."""
        smallest = min(image_shape[1:])
        depth = self.depth or max(1, round(math.log2(smallest)) - 3)
        if smallest < 2:
            raise OptionError(
                f"{self!r}: expected images with sides of at least 2 pixels, which can "
                f"be halved, got {smallest}"
            )
        if 2**depth > smallest:
            raise OptionError(
                f"{self!r}: sides of at least {2**depth} pixels can be halved {depth} "
                f"times, got {smallest}; give a smaller depth"
            )
        module = _ConvAutoencoder(self, image_shape, num_classes, depth)
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(
                    part.weight, nonlinearity="relu", generator=generator
                )
                assert part.bias is not None
                nn.init.zeros_(part.bias)
        return module


class _Stage(nn.Module):
    """A convolution scaled and shifted by a style, after upsampling to a size."""

    def __init__(
        self, inputs: int, outputs: int, styles: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.style = nn.Linear(styles, 2 * outputs)

    def forward(self, latents: Tensor, styles: Tensor) -> Tensor:
        if latents.shape[-2:] != self.size:
            latents = F.interpolate(latents, size=self.size, mode="nearest")
        scale, shift = self.style(styles)[:, :, None, None].chunk(2, dim=1)
        return F.silu(self.convolution(latents) * (1 + scale) + shift)


class _ConvAutoencoder(LatentDecoder):
    def __init__(
        self, options: ConvDecoder, image_shape: ImageShape, classes: int, depth: int
    ) -> None:
        super().__init__()
        colours, height, width = image_shape
        sizes = [(height, width)]
        for _ in range(depth):
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        channels = [options.width * 2**stage for stage in range(depth + 1)]
        halving: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise([colours, *channels[1:]]):
            halving += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.SiLU()]
        halving.append(nn.Conv2d(channels[-1], options.channels, 3, padding=1))
        self.encoder = nn.Sequential(*halving)
        self.embedding = nn.Embedding(classes, options.styles)
        into = [options.channels, *channels[:0:-1]]
        self.stages = nn.ModuleList(
            _Stage(inputs, outputs, options.styles, size)
            for inputs, outputs, size in zip(
                into, channels[::-1], sizes[::-1], strict=True
            )
        )
        self.pixels = nn.Conv2d(channels[0], colours, 3, padding=1)
        self.layers = len(self.stages) + 1

    def encode(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(images), self.embedding(classes)

    def advance(self, latents: Tensor, styles: Tensor, layer: int) -> Tensor:
        for stage in self.stages[:layer]:
            latents = stage(latents, styles)
        return latents

    def decode(self, latents: Tensor, styles: Tensor, layer: int) -> Tensor:
        for stage in self.stages[layer:]:
            latents = stage(latents, styles)
        return self.pixels(latents)  # type: ignore[no-any-return]
