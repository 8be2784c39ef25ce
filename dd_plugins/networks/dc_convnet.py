"""The ConvNet of Dataset Condensation, the benchmark of DC, DSA, DM and MTT."""

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import nn

from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    HalvingAvgPool2d,
    ImageShape,
    Normalization,
    default_depth,
    halved,
    norm,
)
from dd_plugins.spec import record

__all__ = ["DCConvNet", "classic_network"]


@record
class DCConvNet(AbstractNetwork):
    """Blocks of convolution, normalisation, ReLU, average pooling; constant width.

    Args:
        width: channels of every block.
        depth: number of blocks; by default 3 for images of 32 pixels, one more with
            each doubling, one less with each halving, at least 2.
        normalization: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``.

    Initialised as torch does by default; the original relies on this.

    Reference: Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR
    2021, arXiv 2006.05929, section 3.1. Images of 28 pixels are padded to 32 there and
    here.
    """

    name = "dc_convnet"
    few_images_recipe: ClassVar[str] = (
        "recipe(steps=2_000, learning_rate=3e-3, warm_up=200, augmentation='dsa', "
        "loss='cross-entropy', mix='cutmix')"
    )

    width: PositiveInt = 128
    depth: PositiveInt | None = None
    normalization: Normalization = "instance"

    def padding(self, image_shape: ImageShape) -> int:
        """Return the pixels added to each side of an image."""
        return 2 if image_shape[1:] == (28, 28) else 0

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module."""
        del generator  # torch's own initialisers draw from the seeded global state
        depth = self.depth or default_depth(image_shape)
        extra = self.padding(image_shape)
        pixels = halved(self.name, depth, image_shape, extra)
        layers: list[nn.Module] = [nn.ZeroPad2d(extra)] if extra else []
        for block in range(depth):
            inputs = image_shape[0] if block == 0 else self.width
            layers += [
                nn.Conv2d(inputs, self.width, 3, padding=1),
                norm(self.normalization, self.width),
                nn.ReLU(),
                HalvingAvgPool2d(),
            ]
        body = nn.Sequential(*layers, nn.Flatten())
        return FeatureNetwork(body, nn.Linear(self.width * pixels, num_classes))


def classic_network(device: torch.device) -> DCConvNet:
    """Return the ConvNet of DC, DSA and DM; on a CPU a quarter of its width."""
    return DCConvNet(width=32) if device.type == "cpu" else DCConvNet()
