"""Networks that several tests train."""

import torch
from torch import nn

from dd_plugins import AbstractNetwork, record
from dd_plugins.api import FeatureNetwork
from dd_plugins.networks.base import ImageShape


@record
class Dropping(AbstractNetwork):
    """A small network with batch normalisation and dropout."""

    name = "dropping"

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        body = nn.Sequential(
            nn.Conv2d(image_shape[0], 4, kernel_size=3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AvgPool2d(2),
            nn.Flatten(),
        )
        return FeatureNetwork(body, nn.Linear(64, num_classes))
