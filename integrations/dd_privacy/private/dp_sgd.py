"""Steps of DP-SGD by Opacus, and checks against divergence."""

import logging
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from dd_plugins.api import FeatureNetwork, OptionError, RunError, Transform
from dd_privacy.private.accounting import Budget
from dd_privacy.private.choices import Clipping

__all__ = ["PrivateParts", "check_finite", "check_model_outputs", "make_private"]


class PrivateParts(NamedTuple):
    """The parts of a private training loop, wrapped by Opacus.

    Attributes:
        module: gives gradients of single examples.
        optimizer: clips them, adds noise to their sum, and takes a step.
        criterion: the loss; another object than the given one with ghost clipping.
        batches: a loader by Poisson sampling.
    """

    module: Any
    optimizer: Any
    criterion: Any
    batches: Any


def check_finite(module: torch.nn.Module, budget: Budget) -> None:
    """Refuse a model with diverged weights.

    It reads only weights: differential privacy covers them, but not a loss on images.

    Args:
        module: a module, during training or after it.
        budget: the budget of its training.

    Raises:
        RunError: a weight is not finite; the error names the spent epsilon.
    """
    if all(bool(value.isfinite().all()) for value in module.state_dict().values()):
        return
    raise _diverged("weights are no longer finite", budget)


def check_model_outputs(
    network: FeatureNetwork,
    transform: Transform,
    image_shape: tuple[int, int, int],
    budget: Budget,
) -> None:
    """Refuse a model whose outputs for random images are not finite."""
    device = next(network.parameters()).device
    public = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = network(transform(public).to(device))
    if not bool(outputs.isfinite().all()):
        raise _diverged("outputs are not finite", budget)


def _diverged(what: str, budget: Budget) -> RunError:
    return RunError(
        f"private training diverged: {what}; no model is kept, but epsilon "
        f"{budget.epsilon:.3f} at delta {budget.delta:.2g} is spent on these images; "
        "lower the learning rate"
    )


def make_private(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    criterion: torch.nn.Module,
    loader: "DataLoader[Any]",
    budget: Budget,
    *,
    clipping_norm: float,
    generator: Callable[[str], torch.Generator],
    clipping: Clipping = "hooks",
) -> PrivateParts:
    """Make the parts of a training loop private, for the steps of a budget.

    Args:
        module: prepared by :func:`~dd_privacy.private.obstacles.prepare_for_opacus`.
        optimizer: the optimizer of its parameters.
        criterion: the mean loss of a batch.
        loader: a loader of all private examples, without a sampler.
        budget: a budget with the loader's sample rate.
        clipping_norm: the largest norm of a clipped gradient of a single example.
        generator: returns a generator for a purpose: noise or batches.
        clipping: how to clip gradients of single examples.

    Raises:
        OptionError: the budget does not account for how the loader samples.
    """
    from opacus import PrivacyEngine
    from torch.utils.data import RandomSampler, SequentialSampler

    # Opacus takes one over the number of batches as the rate, whatever the sampler.
    if type(loader.sampler) not in (RandomSampler, SequentialSampler):
        raise OptionError(
            "expected a loader without a sampler, got a "
            f"{type(loader.sampler).__name__}, whose rates are not accounted for"
        )
    if not math.isclose(1 / len(loader), budget.sample_rate):
        raise OptionError(
            f"a budget for a sample rate of {budget.sample_rate:g} needs a loader of "
            f"{1 / budget.sample_rate:g} batches, got {len(loader)}"
        )
    # Not the global generator, which has the same seed in every process.
    noise = torch.Generator(device=next(module.parameters()).device)
    noise.manual_seed(generator("noise").initial_seed())
    # It would log an empty first batch, but coins decide that: they are a secret.
    logging.getLogger("opacus.data_loader").disabled = True
    with warnings.catch_warnings():
        # Opacus warns that its secure mode is off; NOT_COVERED says so.
        warnings.simplefilter("ignore")
        parts = PrivacyEngine(accountant="rdp").make_private(
            module=module,
            optimizer=optimizer,
            criterion=criterion,
            data_loader=loader,
            noise_multiplier=budget.noise_multiplier,
            max_grad_norm=clipping_norm,
            noise_generator=noise,
            grad_sample_mode=clipping,
        )
    if clipping == "ghost":
        private, optimizer, criterion, batches = parts
    else:
        private, optimizer, batches = parts
    batches.batch_sampler.generator = generator("batches")
    return PrivateParts(private, optimizer, criterion, batches)
