"""A small network: logistic regression."""

import math

import torch
from torch import nn

from dd_plugins.api import AbstractNetwork, FeatureNetwork, ImageShape, record


@record
class Linear(AbstractNetwork):
    """A linear layer on the flattened image, which itself is the feature layer.

    Args:
        bias: whether the layer has a bias.
    """

    name = "linear"

    bias: bool = True

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        head = nn.Linear(math.prod(image_shape), num_classes, bias=self.bias)
        return FeatureNetwork(nn.Flatten(), head)
