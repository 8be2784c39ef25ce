"""The networks that scripts build, against those of the library."""

from dataclasses import replace

import pytest
import torch
from made_sets import made_set

from dd_plugins import get_network
from dd_plugins.exports.recipe import recipe_of
from dd_plugins.networks.base import ImageShape

SPECS = [
    "conv(width=4)",
    "conv(width=4, depth=2, normalization='batch')",
    "dc_convnet(width=4)",
    "mlp(width=5, normalization='layer')",
    "alexnet(width=4)",
    "vgg11(width=4)",
    "resnet18(width=4, normalization='batch')",
    "mobilenet_v2(width=4)",
]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 16, 8)], ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_plain_network_is_the_library_s(spec: str, shape: ImageShape) -> None:
    made = replace(made_set(evaluation_network=spec), images=torch.zeros(6, *shape))
    how = recipe_of(made, get_network)
    plain = how.network(torch.Size(shape), 3, **how.fields["network"]["options"])
    generator = torch.Generator().manual_seed(0)
    library = get_network(spec).for_evaluation().build(shape, 3, generator=generator)
    pairs = zip(plain.parameters(), library.parameters(), strict=True)
    with torch.no_grad():
        for own, others in pairs:
            if own.numel() > 256:  # enough to tell how they are drawn
                assert own.std().item() == pytest.approx(others.std().item(), rel=0.2)
            own.copy_(others)
    images = torch.randn(5, *shape, generator=generator)
    torch.testing.assert_close(plain(images), library(images), atol=1e-4, rtol=1e-4)
