"""What tests of mechanisms share."""

from functools import cache

import torch
from privacy_data import MLP, noisy_data
from torch import Tensor, nn

import dd_plugins
from dd_plugins.data.real import RealData
from dd_privacy.audit.mechanisms import AbstractMechanism, Release


@cache
def small_set(images_per_class: int = 1, seed: int = 0) -> dd_plugins.DistilledSet:
    """Return random real images of 80."""
    return dd_plugins.distill(
        noisy_data(80),
        "random",
        images_per_class=images_per_class,
        network=MLP,
        device="cpu",
        seed=seed,
    )


def weights(release: Release | nn.Module) -> Tensor:
    """Return all weights of a model as one vector."""
    network = release.network if isinstance(release, Release) else release
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def same_run(
    mechanism: AbstractMechanism, data: RealData, released: bool = True
) -> None:
    """Check that a run is a function of its members and its seed alone.

    Args:
        mechanism: the mechanism.
        data: the members.
        released: whether the released images depend on the seed, if there are any.
    """
    before = data.train.images[:].clone()
    torch.manual_seed(0)
    first = mechanism.run(data, 3)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    same, other = mechanism.run(data, 3), mechanism.run(data, 4)
    assert torch.equal(weights(first), weights(same))
    assert not torch.equal(weights(first), weights(other))
    if first.distilled is not None:
        assert same.distilled is not None
        assert other.distilled is not None
        assert torch.equal(first.distilled.images, same.distilled.images)
        alike = torch.equal(first.distilled.images, other.distilled.images)
        assert alike is not released
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state), "no global generator is used"
    assert torch.equal(data.train.images[:], before), "the members stay as they are"
