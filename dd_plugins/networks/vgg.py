"""VGG11 for small images."""

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
    with_normalization,
)
from dd_plugins.spec import record

__all__ = ["VGG11"]

# Convolutions of each stage, in units of the width; a pooling follows a stage.
_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
_SMALLEST_MAP = 2


@record
class VGG11(AbstractNetwork):
    """Eight convolutions of 3x3 in five stages, and one linear layer.

    The layers are torchvision's. A stage is followed by max pooling while this leaves
    maps of at least 2x2 (32 pixels: after four of the five stages); the last maps are
    averaged.

    Args:
        width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
        normalization: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``, after
            every convolution.

    Reference: Simonyan, Zisserman, arXiv 1409.1556, configuration A.

    Differences: one linear layer instead of three, as in Dataset Condensation (arXiv
    2006.05929). The released code of FRePo ignores ``width``; here it counts.
    """

    name = "vgg11"
    few_images_recipe: ClassVar[str] = (
        "recipe(steps=2_000, learning_rate=3e-3, warm_up=200, optimizer='adamw', "
        "weight_decay=0.05, augmentation='dsa', loss='cross-entropy')"
    )

    width: PositiveInt = 64
    normalization: Normalization = "instance"

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module."""
        del generator  # torch's own initialisers draw from the seeded global state
        channels, height, width = image_shape
        side = min(height, width)
        if side < _SMALLEST_MAP:
            raise OptionError(
                f"vgg11: images must have at least {_SMALLEST_MAP}x{_SMALLEST_MAP} "
                f"pixels, got {height}x{width}; resize them"
            )
        plan: list[str | int] = []
        for stage in _STAGES:
            plan += [factor * self.width for factor in stage]
            if side // 2 >= _SMALLEST_MAP:
                plan.append("M")
                side //= 2
        from torchvision.models.vgg import make_layers

        layers = make_layers(plan, batch_norm=True)
        layers[0] = nn.Conv2d(channels, self.width, 3, padding=1)
        with_normalization(layers, self.normalization)
        body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return FeatureNetwork(body, nn.Linear(8 * self.width, num_classes))
