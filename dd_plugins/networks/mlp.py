"""A multi-layer perceptron on flattened images."""

import math
from itertools import pairwise

import torch
from pydantic import PositiveInt
from torch import nn

from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.spec import record

__all__ = ["MLP"]


@record
class MLP(AbstractNetwork):
    """Linear layers with ReLU; the last hidden layer is the feature layer.

    Args:
        width: units of every hidden layer.
        depth: number of hidden layers.

    Initialised as torch does by default. The original of Dataset Condensation (arXiv
    2006.05929) has width 128 and depth 2, the defaults here.
    """

    name = "mlp"

    width: PositiveInt = 128
    depth: PositiveInt = 2

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module."""
        del generator  # torch's own initialisers draw from the seeded global state
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(
            [math.prod(image_shape), *self.depth * [self.width]]
        ):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        body = nn.Sequential(*layers)
        return FeatureNetwork(body, nn.Linear(self.width, num_classes))
