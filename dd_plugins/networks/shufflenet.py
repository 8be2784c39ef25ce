"""ShuffleNetV2 for small images."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
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

__all__ = ["ShuffleNetV2"]

_STEM = 24
_LAST = 1024
_SMALLEST_SIDE = 8


@record
class ShuffleNetV2(AbstractNetwork):
    """Blocks of depthwise convolutions with shuffled channels, from torchvision.

    The stem keeps the resolution: images of 32 pixels end as maps of 4x4. Images with
    sides of less than 16 pixels are doubled in size first.

    Args:
        width: channels of the first stage, an even number; they double with every
            stage. 48 is the paper's 0.5x, 116 its 1x.
        normalization: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``.

    Reference: Ma et al., arXiv 1807.11164.
    """

    name = "shufflenet_v2"
    few_images_recipe: ClassVar[str] = (
        "recipe(steps=2_000, learning_rate=1e-2, warm_up=200, optimizer='adamw', "
        "weight_decay=0.05, augmentation='crop', loss='cross-entropy', "
        "mix='cutmix')"
    )

    width: Annotated[int, Field(gt=0, multiple_of=2)] = 48
    normalization: Normalization = "batch"

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module."""
        del generator  # torchvision's initialisers draw from the seeded global state
        channels, height, width = image_shape
        if min(height, width) < _SMALLEST_SIDE:
            raise OptionError(
                f"shufflenet_v2: images must have at least "
                f"{_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels, got {height}x{width}; "
                "resize them"
            )
        stages = [_STEM, self.width, 2 * self.width, 4 * self.width, _LAST]
        from torchvision.models import ShuffleNetV2 as TorchvisionShuffleNetV2

        module = TorchvisionShuffleNetV2([4, 8, 4], stages, num_classes)
        stem = module.conv1
        stem[0] = nn.Conv2d(channels, _STEM, 3, padding=1, bias=False)
        doubled = min(height, width) < 2 * _SMALLEST_SIDE
        body = nn.Sequential(
            nn.Upsample(scale_factor=2) if doubled else nn.Identity(),
            stem,
            module.stage2,
            module.stage3,
            module.stage4,
            module.conv5,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        with_normalization(body, self.normalization)
        return FeatureNetwork(body, nn.Linear(_LAST, num_classes))
