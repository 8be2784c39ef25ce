"""AlexNet for small images, as used in dataset distillation."""

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import nn

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    ImageShape,
    Normalization,
    norm,
)
from dd_plugins.spec import record

__all__ = ["AlexNet"]

_SMALLEST_SIDE = 8


@record
class AlexNet(AbstractNetwork):
    """Five convolutions, the first two of 5x5, with max pooling after 1, 2 and 5.

    Args:
        width: channels of the first convolution; the others have 1.5, 2, 1.5 and 1.5
            times as many.
        normalization: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``, after
            every convolution.

    Reference: the AlexNet of Dataset Condensation (arXiv 2006.05929, section 4.2) and
    its released code, width 128 without normalisation. torchvision's AlexNet begins
    with a stride of 4, too large for images of 32 pixels.
    """

    name = "alexnet"
    few_images_recipe: ClassVar[str] = (
        "recipe(steps=2_000, learning_rate=3e-3, warm_up=200, augmentation='dsa')"
    )

    width: PositiveInt = 128
    normalization: Normalization = "none"

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module."""
        del generator  # torch's own initialisers draw from the seeded global state
        channels, height, width = image_shape
        if min(height, width) < _SMALLEST_SIDE:
            raise OptionError(
                f"alexnet: images must have at least "
                f"{_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels, got {height}x{width}; "
                "resize them"
            )
        layers: list[nn.Module] = []
        inputs = channels
        for factor, kernel, pooled in (
            (1.0, 5, True),
            (1.5, 5, True),
            (2.0, 3, False),
            (1.5, 3, False),
            (1.5, 3, True),
        ):
            outputs = round(factor * self.width)
            layers += [
                nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
                norm(self.normalization, outputs),
                nn.ReLU(),
            ]
            if pooled:
                layers.append(nn.MaxPool2d(2))
            inputs = outputs
        features = inputs * (height // 8) * (width // 8)
        return FeatureNetwork(
            nn.Sequential(*layers, nn.Flatten()), nn.Linear(features, num_classes)
        )
