"""The laws of networks."""

from collections.abc import Callable

import torch
from torch import Tensor

from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.testing.laws import asserts
from dd_plugins.testing.toys import assert_draws_nothing_globally, plugins_with

__all__ = [
    "NETWORK_CHECKS",
    "check_network_is_reproducible",
    "check_network_shapes",
    "check_network_spec_round_trip",
]

_SHAPES = (((1, 8, 8), 3), ((3, 16, 16), 5))  # of images, and numbers of classes


@asserts
def check_network_is_reproducible(network: AbstractNetwork) -> None:
    """The same generator gives the same weights, without touching global state."""
    assert_draws_nothing_globally(
        lambda: _weights(network, seed=0),
        "building a network must leave the global random state as it was",
    )
    first, second = (_weights(network, seed=0) for _ in range(2))
    assert torch.equal(first, second), "the same generator must give the same weights"
    assert not torch.equal(first, _weights(network, seed=1)), "the seed must matter"


def _weights(network: AbstractNetwork, seed: int) -> Tensor:
    module = network.build((1, 8, 8), 3, generator=generator_for(seed, "network check"))
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


@asserts
def check_network_shapes(network: AbstractNetwork) -> None:
    """The module serves grey and colour images, and any number of classes.

    Features are flat, the head maps them to one logit for each class, and gradients
    reach the images.
    """
    for shape, classes in _SHAPES:
        generator = generator_for(0, "network check")
        module = network.build(shape, classes, generator=generator).eval()
        images = torch.rand(2, *shape, generator=generator).requires_grad_()
        features = module.features(images)
        assert features.ndim == 2, f"features must be flat, got {tuple(features.shape)}"
        law = "one row for each image"
        assert len(features) == 2, f"{law}, got {tuple(features.shape)}"
        logits = module(images)
        got = tuple(logits.shape)
        assert got == (2, classes), f"logits must be (2, {classes}), got {got}"
        same = torch.allclose(logits, module.head(features), atol=1e-4)
        assert same, "logits must be those of the head on the features"
        (gradient,) = torch.autograd.grad(logits.square().sum(), images)
        assert torch.isfinite(gradient).all(), "gradients on images must be finite"
        assert bool((gradient != 0).any()), "gradients must reach the images"


@asserts
def check_network_spec_round_trip(network: AbstractNetwork) -> None:
    """``repr`` is the spec of an equal network."""
    built = plugins_with(network).network(repr(network))
    assert built == network, f"repr must build an equal object, got {built!r}"


NETWORK_CHECKS: tuple[Callable[[AbstractNetwork], None], ...] = (
    check_network_is_reproducible,
    check_network_shapes,
    check_network_spec_round_trip,
)
"""Every check of a network; each takes one fit for images of 8x8 and 16x16 pixels."""
