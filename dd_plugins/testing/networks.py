"""The laws of networks."""

from collections.abc import Callable

import torch
from torch import Tensor

from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.testing.laws import asserts

__all__ = ["NETWORK_CHECKS", "check_network_is_reproducible", "check_network_shapes"]


@asserts
def check_network_is_reproducible(network: AbstractNetwork) -> None:
    """The same generator gives the same weights, without touching global state."""
    before = torch.random.get_rng_state()
    first, second = (_weights(network, seed=0) for _ in range(2))
    assert torch.equal(first, second), "the same generator must give the same weights"
    assert not torch.equal(first, _weights(network, seed=1)), "the seed must matter"
    law = "building a network must leave torch's global random state as it was"
    assert torch.equal(before, torch.random.get_rng_state()), law


def _weights(network: AbstractNetwork, seed: int) -> Tensor:
    module = network.build((1, 8, 8), 3, generator=generator_for(seed, "network check"))
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


@asserts
def check_network_shapes(network: AbstractNetwork) -> None:
    """Features are flat, each class has one logit, and gradients reach the images."""
    module = network.build(
        (1, 8, 8), 3, generator=generator_for(0, "network check")
    ).eval()
    images = torch.rand(
        2, 1, 8, 8, generator=generator_for(0, "images")
    ).requires_grad_()
    features = module.features(images)
    assert features.ndim == 2, f"features must be flat, got {tuple(features.shape)}"
    assert len(features) == 2, f"one row for each image, got {tuple(features.shape)}"
    logits = module(images)
    assert logits.shape == (2, 3), f"logits must be (2, 3), got {tuple(logits.shape)}"
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    assert torch.isfinite(gradient).all(), "gradients on images must be finite"
    assert bool((gradient != 0).any()), "gradients must reach the images"


NETWORK_CHECKS: tuple[Callable[[AbstractNetwork], None], ...] = (
    check_network_is_reproducible,
    check_network_shapes,
)
"""Every check of a network; each takes one fit for 8x8 images."""
