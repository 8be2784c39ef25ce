"""DP-DM: distribution matching with noisy mean features of the classes."""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from dd_plugins.api import (
    Leaves,
    Metrics,
    Parameters,
    RealSampler,
    Run,
    add_gradient,
    record,
)
from dd_privacy.private.accounting import Budget
from dd_privacy.private.distillation import (
    AbstractPrivateDistiller,
    PrivateState,
    clipping_factors,
    features_of,
    real_features,
)
from dd_privacy.private.noise import SecretNoise

__all__ = ["DPDM"]


@record
class DPDM(AbstractPrivateDistiller[PrivateState]):
    """Distribution matching with differential privacy for the real images.

    Every step draws an untrained network. The features of each real image in a Poisson
    batch are clipped to a norm and summed class by class; noise is added once to the
    sums of all classes. The clipped features of the synthetic images are pulled towards
    the noisy means.

    An image has one class, so it adds to one sum: all classes together form one
    mechanism. Classes are assumed to be equally large, because their sizes are private.

    Args:
        epsilon: the epsilon of the whole run.
        delta: the delta of the whole run, roughly the probability that epsilon fails;
            less than one over the number of images.
        batch_size: the expected number of real images in a step, over all classes. A
            data set with fewer images is seen whole at every step.
        clipping_norm: the largest norm of an image's clipped features, in units of the
            root-mean-square norm of the synthetic images' features.
        learning_rate: the learning rate of SGD on the images.
        start_noise: the standard deviation of the initial noise images.
        momentum: the momentum of SGD on the images, in [0, 1).

    References: Zheng, Li, "Differentially Private Dataset Condensation" (NDPDC), NDSS
    workshops 2024, and its released code; Zhao, Bilen (DM), arXiv 2110.04181.

    Differences from NDPDC: one Poisson rate for all images, instead of one per class by
    its size; no augmentation of real images; 400 steps instead of 10,000.
    """

    name = "dp_dm"
    mechanism = "the sums of clipped features, class by class"
    short_run = 400

    learning_rate: PositiveFloat = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def private_state(
        self, run: Run, budget: Budget, noise: SecretNoise
    ) -> PrivateState:
        """Return a state with the budget and the noise."""
        return PrivateState(run, budget, noise)

    def accumulate(
        self, state: PrivateState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the distance to the noisy means of the classes."""
        run = state.run
        num_classes = run.task.num_classes
        network = run.fresh_network(run.generator("matching network", step)).eval()
        network.requires_grad_(False)
        pixels = leaves.pixels
        features = features_of(run, network, pixels)
        scale = features.detach().square().sum(dim=1).mean().sqrt()

        def by_class(images: Tensor, labels: Tensor) -> Tensor:
            found = self._clipped(real_features(run, network, images) / scale)
            sums = found.new_zeros(num_classes, found.shape[1])
            return sums.index_add(0, labels, found)

        shape = (num_classes, features.shape[1])
        noisy = self.noisy_sum(state, real, step, by_class, shape)
        wanted = (num_classes * noisy).to(features)  # if all classes are equally large
        clipped = self._clipped(features / scale)
        counts = leaves.classes.bincount(minlength=num_classes)
        sums = clipped.new_zeros(shape).index_add(0, leaves.classes, clipped)
        there = counts > 0
        means = sums[there] / counts[there][:, None]
        # It depends on the noisy means alone, so it may be published.
        loss = (means - wanted[there]).square().sum()
        (gradient,) = torch.autograd.grad(loss, pixels)
        add_gradient(pixels, gradient)
        return {"loss": loss.detach()}

    def _clipped(self, features: Tensor) -> Tensor:
        norms = features.norm(dim=1, keepdim=True)
        return features * clipping_factors(norms, self.clipping_norm)

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum
        )
