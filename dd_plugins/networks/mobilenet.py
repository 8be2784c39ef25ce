"""MobileNetV2 for small images."""

import torch
from pydantic import PositiveInt
from torch import nn

from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    ImageShape,
    Normalization,
    with_normalization,
)
from dd_plugins.spec import record

__all__ = ["MobileNetV2"]

_FULL_WIDTH = 32
# Expansion, channels at full width, blocks, whether the side is halved. At 224 pixels
# the stem and the second stage halve it as well.
_STAGES = (
    (1, 16, 1, False),
    (6, 24, 2, False),
    (6, 32, 3, True),
    (6, 64, 4, True),
    (6, 96, 3, False),
    (6, 160, 3, True),
    (6, 320, 1, False),
)


@record
class MobileNetV2(AbstractNetwork):
    """Inverted residual blocks with depthwise convolutions, from torchvision.

    The stem and the second stage keep the resolution: images of 32 pixels end as maps
    of 4x4. Smaller images are halved less often, down to maps of 2x2.

    Args:
        width: channels of the stem, 32 in the paper; those of the stages are in
            proportion, rounded to multiples of eight.
        normalization: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``.

    Reference: Sandler et al., arXiv 1801.04381.

    Differences: no dropout before the head.
    """

    name = "mobilenet_v2"

    width: PositiveInt = 32
    normalization: Normalization = "batch"

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module."""
        del generator  # torchvision's initialisers draw from the seeded global state
        channels, height, width = image_shape
        side = min(height, width)
        setting = []
        for expansion, outputs, blocks, halved in _STAGES:
            stride = 2 if halved and side >= 4 else 1
            side //= stride
            setting.append([expansion, outputs, blocks, stride])
        from torchvision.models import MobileNetV2 as TorchvisionMobileNetV2

        module = TorchvisionMobileNetV2(
            num_classes,
            width_mult=self.width / _FULL_WIDTH,
            inverted_residual_setting=setting,
        )
        stem = module.features[0][0]
        module.features[0][0] = nn.Conv2d(
            channels, stem.out_channels, 3, padding=1, bias=False
        )
        with_normalization(module.features, self.normalization)
        body = nn.Sequential(module.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return FeatureNetwork(body, nn.Linear(module.last_channel, num_classes))
