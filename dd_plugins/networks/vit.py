"""A small vision transformer."""

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.spec import record

__all__ = ["ViT"]


@record
class ViT(AbstractNetwork):
    """A transformer on patches of the image, with averaged outputs.

    The layers are torch's. Layer normalisation stands before attention and before the
    perceptron; there is no option to leave it out.

    Args:
        width: size of a token; a multiple of ``heads``.
        depth: number of layers.
        heads: attention heads of a layer.
        patch: side of a patch in pixels; images are padded with zeros to a multiple.

    Reference: Dosovitskiy et al., arXiv 2010.11929; without dropout, and with the mean
    over the patches in place of a class token (Beyer et al., arXiv 2205.01580).
    """

    name = "vit"
    few_images_recipe: ClassVar[str] = (
        "recipe(steps=2_000, learning_rate=1e-2, warm_up=200, augmentation='dsa', "
        "loss='cross-entropy', mix='cutmix')"
    )

    width: PositiveInt = 192
    depth: PositiveInt = 6
    heads: PositiveInt = 3
    patch: PositiveInt = 4

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a freshly initialised module."""
        del generator  # torch's own initialisers draw from the seeded global state
        if self.width % self.heads:
            raise OptionError(
                f"vit: width must be a multiple of heads, got width {self.width} and "
                f"{self.heads} heads"
            )
        channels, *sides = image_shape
        grid = [-(-side // self.patch) for side in sides]
        body = nn.Sequential(
            nn.ZeroPad2d(
                (0, grid[1] * self.patch - sides[1], 0, grid[0] * self.patch - sides[0])
            ),
            nn.Conv2d(channels, self.width, self.patch, stride=self.patch),
            _Encoder(self.width, self.depth, self.heads, grid[0] * grid[1]),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        return FeatureNetwork(body, nn.Linear(self.width, num_classes))


class _Encoder(nn.Module):
    """Transformer layers on the pixels of a map; their outputs make a map again."""

    def __init__(self, width: int, depth: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.places = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(width), enable_nested_tensor=False
        )
        for parameter in self.layers.parameters():  # the copies of one layer differ
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, maps: Tensor) -> Tensor:
        tokens = maps.flatten(2).mT + self.places
        encoded: Tensor = self.layers(tokens)
        return encoded.mT.reshape(maps.shape)
