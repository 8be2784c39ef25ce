"""FRePo's convolutional network: the width doubles with every block."""

import math
from itertools import pairwise
from typing import ClassVar, Self

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

__all__ = ["Conv", "lecun_normal_"]

# The standard deviation of a unit normal that is cut off at two.
_TRUNCATED_DEVIATION = 0.87962566103423978


def lecun_normal_(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise every convolution and linear layer as flax does by default.

    Weights are normal with variance ``1 / fan_in``, cut off at two standard deviations;
    biases are zero.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            deviation = math.sqrt(1 / fan_in) / _TRUNCATED_DEVIATION
            nn.init.trunc_normal_(
                layer.weight, 0, deviation, -2 * deviation, 2 * deviation, generator
            )
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@record
class Conv(AbstractNetwork):
    """FRePo's network: blocks of normalisation, convolution, ReLU, average pooling.

    Block ``i`` has ``width * 2**i`` channels; normalisation stands before the
    convolution of every block but the first. "Width 128" is thus 128, 256 and 512
    channels, not the constant 128 of
    :class:`~dd_plugins.networks.dc_convnet.DCConvNet`.

    Args:
        width: channels of the first block.
        depth: number of blocks; by default 3 for images of 32 pixels, one more with
            each doubling, one less with each halving, at least 2.
        normalization: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``; by
            default batch while distilling and none when evaluating, as the paper does.

    Reference: arXiv 2206.00719, appendix A.1, and the released code.

    Differences: the released code pads every one-channel image by two pixels a side;
    here images of any channels are padded until the pooling divides them (28 to 32).
    """

    name = "conv"
    few_images_recipe: ClassVar[str] = (
        "recipe(steps=2_000, learning_rate=3e-3, warm_up=200, optimizer='adamw', "
        "weight_decay=0.05, augmentation='dsa', mix='cutmix')"
    )

    width: PositiveInt = 128
    depth: PositiveInt | None = None
    normalization: Normalization | None = None

    def for_distillation(self) -> Self:
        """Choose batch normalisation unless another was asked for."""
        return self._with_normalization("batch")

    def for_evaluation(self) -> Self:
        """Choose no normalisation unless one was asked for."""
        return self._with_normalization("none")

    def _with_normalization(self, normalization: Normalization) -> Self:
        if self.normalization is not None:
            return self
        return type(self)(
            width=self.width, depth=self.depth, normalization=normalization
        )

    def padding(self, image_shape: ImageShape) -> int:
        """Return the pixels to add on each side for an even pooling of images.

        They are at most 3, and 0 if no such number makes it even.
        """
        unit = 2 ** (self.depth or default_depth(image_shape))
        for extra in range(min(4, unit // 2)):
            if all((side + 2 * extra) % unit == 0 for side in image_shape[1:]):
                return extra
        return 0

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module."""
        depth = self.depth or default_depth(image_shape)
        extra = self.padding(image_shape)
        pixels = halved(self.name, depth, image_shape, extra)
        layers: list[nn.Module] = [nn.ZeroPad2d(extra)] if extra else []
        sizes = [image_shape[0], *(self.width * 2**block for block in range(depth))]
        for block, (inputs, outputs) in enumerate(pairwise(sizes)):
            if block > 0:
                layers.append(norm(self.normalization or "none", inputs))
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.ReLU(inplace=True),
                HalvingAvgPool2d(),
            ]
        body = nn.Sequential(*layers, nn.Flatten())
        network = FeatureNetwork(body, nn.Linear(sizes[-1] * pixels, num_classes))
        lecun_normal_(network, generator)
        return network
