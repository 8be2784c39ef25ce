"""The augmentations of scripts, against those of the library, over many draws."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dd_plugins.exports.plain import augmentations as plain
from dd_plugins.training.recipes import Recipe


@pytest.mark.parametrize("name", ["frepo", "dsa", "crop"])
def test_plain_augmentation_has_the_library_s_moments(name: str) -> None:
    """Means and mean squares of each pixel, over many draws."""
    images = torch.rand(1, 2, 8, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    images = images.expand(20, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    recipe = Recipe(steps=1, augmentation=name)  # type: ignore[arg-type]
    function: Callable[[Tensor, bool], Tensor] = getattr(plain, name)

    def moments(augment: Callable[[], Tensor]) -> Tensor:
        drawn = torch.stack([augment() for _ in range(400)])
        return torch.stack([drawn.mean((0, 1)), drawn.square().mean((0, 1))])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = moments(lambda: function(images, True))
    expected = moments(lambda: recipe.augment(images, generator, True))
    torch.testing.assert_close(found, expected, atol=0.08, rtol=0.03)
