"""A multi-layer perceptron on flattened images."""

import math
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import nn

from dd_plugins.networks.base import (
    BATCH_NORM_MOMENTUM,
    AbstractNetwork,
    FeatureNetwork,
    ImageShape,
)
from dd_plugins.spec import record

__all__ = ["MLP"]


@record
class MLP(AbstractNetwork):
    """Linear layers with ReLU; the last hidden layer is the feature layer.

    Args:
        width: units of every hidden layer.
        depth: number of hidden layers.
        normalization: the normalisation before each ReLU: ``"batch"``, ``"layer"`` or
            ``"none"``.

    Initialised as torch does by default. The original of Dataset Condensation (arXiv
    2006.05929) has width 128 and depth 2, the defaults here.
    """

    name = "mlp"
    few_images_recipe: ClassVar[str] = (
        "recipe(steps=2_000, learning_rate=1e-2, warm_up=200, augmentation='crop', "
        "loss='cross-entropy')"
    )

    width: PositiveInt = 128
    depth: PositiveInt = 2
    normalization: Literal["batch", "layer", "none"] = "none"

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module."""
        del generator  # torch's own initialisers draw from the seeded global state
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(
            [math.prod(image_shape), *self.depth * [self.width]]
        ):
            layers.append(nn.Linear(inputs, outputs))
            if self.normalization == "batch":
                layers.append(nn.BatchNorm1d(outputs, momentum=BATCH_NORM_MOMENTUM))
            elif self.normalization == "layer":
                layers.append(nn.LayerNorm(outputs))
            layers.append(nn.ReLU())
        body = nn.Sequential(*layers)
        return FeatureNetwork(body, nn.Linear(self.width, num_classes))
