"""ResNet18 for small images."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import nn

from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    ImageShape,
    Normalization,
    norm,
    with_normalization,
)
from dd_plugins.spec import record

__all__ = ["ResNet18"]

_STAGES = 4
_BLOCKS = 2


@record
class ResNet18(AbstractNetwork):
    """Four stages of two residual blocks behind a stem that keeps the resolution.

    The blocks are torchvision's. Its own stem, made for 224 pixels, would divide the
    side by four at once.

    Args:
        width: channels of the first stage; they double with every stage.
        normalization: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``, in the
            stem and in every block.

    Reference: He et al., arXiv 1512.03385, with the stem for 32 pixels of its section
    4.2.

    Differences: the released code of FRePo leaves the blocks without normalisation.
    """

    name = "resnet18"
    few_images_recipe: ClassVar[str] = (
        "recipe(steps=2_000, learning_rate=1e-2, warm_up=200, optimizer='adamw', "
        "weight_decay=0.05, loss='cross-entropy', mix='cutmix')"
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
        layers: list[nn.Module] = [
            nn.Conv2d(channels, self.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(self.width),
            nn.ReLU(),
        ]
        inputs = self.width
        for stage in range(_STAGES):
            outputs = self.width * 2**stage
            # Maps of one pixel have no variance for instance normalisation.
            stride = 2 if stage > 0 and side >= 4 else 1
            side = -(-side // stride)
            for block in range(_BLOCKS):
                step = stride if block == 0 else 1
                layers.append(_block(inputs, outputs, step))
                inputs = outputs
        body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for layer in body.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(
                    layer.weight, mode="fan_out", nonlinearity="relu"
                )
        with_normalization(body, self.normalization)
        return FeatureNetwork(body, nn.Linear(inputs, num_classes))


class _Subsampling(nn.Conv2d):
    """A convolution of single pixels; it drops the pixels between strides first.

    It computes the same as ``nn.Conv2d``. With a stride and fewer than eight channels,
    channels last, torch's kernel for the gradient writes out of bounds on CPUs without
    AVX-512 (torch 2.15), and the process dies.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        down, right = self.stride
        return F.conv2d(input[:, :, ::down, ::right], self.weight, self.bias)


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            _Subsampling(inputs, outputs, 1, stride=stride, bias=False),
            norm("batch", outputs),
        )
    from torchvision.models.resnet import BasicBlock

    block: nn.Module = BasicBlock(inputs, outputs, stride, shortcut)
    return block
