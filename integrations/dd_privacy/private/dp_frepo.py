"""DP-FRePo: feature regression with noisy gradients of real images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from dd_plugins.api import (
    FeatureNetwork,
    LabelKind,
    Leaves,
    Metrics,
    OptionError,
    Pool,
    PoolState,
    RealSampler,
    Run,
    Task,
    add_gradient,
    centred_targets,
    record,
    ridge_regression,
    ridge_weights,
)
from dd_privacy.private.accounting import Budget
from dd_privacy.private.distillation import (
    AbstractPrivateDistiller,
    ClippingNorm,
    PrivateState,
    clipping_factors,
    features_of,
    real_features,
)
from dd_privacy.private.noise import SecretNoise

__all__ = ["DPFRePo", "clipped_gradients_of_images", "clipped_gradients_of_weights"]

_AT_ONCE = 32  # examples whose gradients in all synthetic images are held


@dataclass
class DPFRePoState(PrivateState):
    """The budget, the secret, and the models, trained on the synthetic set alone."""

    models: PoolState

    def state_dict(self) -> dict[str, Any]:
        """Return the secret and the models."""
        return super().state_dict() | self.models.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the secret and the models."""
        super().load_state_dict(state)
        self.models.load_state_dict(state)


@record
class DPFRePo(AbstractPrivateDistiller[DPFRePoState]):
    """FRePo with differential privacy for the real images.

    A ridge regression from features to labels is fitted to the synthetic set, so its
    weights W use no real image. Each real image gives a gradient of its squared error;
    these gradients are clipped and summed, and noise is added. The models of the pool
    are trained on the synthetic set alone, and it is already private. Labels are fixed.

    Args:
        epsilon: the epsilon of the whole run.
        delta: the delta of the whole run, roughly the probability that epsilon fails;
            less than one over the number of images.
        batch_size: the expected number of real images in a step. A data set with
            fewer images is seen whole at every step.
        clipping_norm: the largest norm of an image's clipped gradient. Features have
            norm 1, so gradients in the weights have a norm of about 1 at first.
        clipped: the variables of the clipped gradients: the regression's ``"weights"``
            (the noisy sum is pulled back to the images), or the ``"images"``, as in
            DP-KIP. The weights have ``features * classes`` numbers, however many images
            there are, and their gradients need no backward pass of their own.
        learning_rate: the learning rate of Adam on the images.
        start_noise: the standard deviation of the initial noise images.
        pool_size: the number of online models.
        max_online_updates: training steps of a model; one with more steps is replaced.
        online_learning_rate: the learning rate of Adam on the models.
        ridge: the ridge, relative to the mean eigenvalue of the kernel. With a large
            ridge, noise in the weights changes the images little.

    References: Vinaroz, Park, "Differentially Private Kernel Inducing Points using
    features from ScatterNets (DP-KIP-ScatterNet) for Privacy Preserving Data
    Distillation", arXiv 2301.13389, algorithm 1; Zhou, Nezhadarya, Ba (FRePo), arXiv
    2206.00719.

    Differences from DP-KIP: features of norm 1 from online models, instead of a fixed
    kernel; by default, clipped gradients in the weights instead of the images.
    Differences from its released code: batches are drawn by Poisson sampling, as the
    accountant assumes; the set never starts from private images; no statistic of
    private images is used; noise comes from a secret, not from a seed; nothing is
    measured during the run.
    """

    name = "dp_frepo"
    mechanism = "the sum of clipped gradients of squared regression errors"
    short_run = 300

    clipping_norm: ClippingNorm = 0.3
    clipped: Literal["weights", "images"] = "weights"
    pool_size: PositiveInt = 10
    max_online_updates: PositiveInt = 100
    online_learning_rate: PositiveFloat = 3e-4
    ridge: NonNegativeFloat = 0.1

    def for_task(self, task: Task) -> Self:
        """Refuse a single class, whose targets are all 0.

        Raises:
            OptionError: there is one class.
        """
        if task.num_classes < 2:
            raise OptionError(
                "dp_frepo: expected at least two classes to tell apart, got "
                f"{task.num_classes}; take dp_dm"
            )
        return self

    @property
    def label_kind(self) -> LabelKind:
        """Labels are centred regression targets."""
        return "regression"

    def initial_labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return centred one-hot labels."""
        return centred_targets(labels, num_classes)

    def private_state(
        self, run: Run, budget: Budget, noise: SecretNoise
    ) -> DPFRePoState:
        """Fill the pool with fresh models of staggered ages."""
        pool, oldest = self._pool(run), self.max_online_updates
        models = {
            slot: pool.fresh_model(run, slot, -1, slot * oldest // self.pool_size)
            for slot in range(self.pool_size)
        }
        return DPFRePoState(run, budget, noise, PoolState(run, models))

    def _pool(self, run: Run) -> Pool:
        return Pool((run.network,), self.online_learning_rate)

    def accumulate(
        self, state: DPFRePoState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the noisy gradient of the regression error of a Poisson batch."""
        run = state.run
        network = state.models.pool[state.models.slot_of(step)].network.eval()
        pixels = leaves.pixels
        features = _features(run, network, pixels)
        weights = ridge_weights(features, leaves.labels, ridge=self.ridge)
        fixed = weights.detach()

        def unit_features(images: Tensor) -> Tensor:
            return F.normalize(real_features(run, network, images)).double()

        def of_weights(images: Tensor, labels: Tensor) -> Tensor:
            targets = centred_targets(labels, run.task.num_classes).double()
            return clipped_gradients_of_weights(
                unit_features(images), targets, fixed, self.clipping_norm
            )

        def of_images(images: Tensor, labels: Tensor) -> Tensor:
            targets = centred_targets(labels, run.task.num_classes).double()

            def weights_of(view: Tensor) -> Tensor:
                found = F.normalize(network.features(view))
                return _solved(found.double(), leaves.labels.double(), self.ridge)

            return clipped_gradients_of_images(
                weights_of,
                pixels.detach(),
                unit_features(images),
                targets,
                self.clipping_norm,
            )

        if self.clipped == "weights":
            shape = (weights.shape[0], weights.shape[1])
            noisy = self.noisy_sum(state, real, step, of_weights, shape)
            (gradient,) = torch.autograd.grad(weights, pixels, noisy.to(weights.device))
        else:
            noisy = self.noisy_sum(state, real, step, of_images, tuple(pixels.shape))
            gradient = noisy.to(pixels)
        add_gradient(pixels, gradient)
        # A loss on real images is private; the norm of the noisy sum may be published.
        return {"loss": noisy.norm().to(pixels)}

    def advance(self, state: DPFRePoState, leaves: Leaves, step: int) -> None:
        """Train the model of this step on the set, or replace it."""
        slot = state.models.slot_of(step)
        model = state.models.pool[slot]
        if model.updates > self.max_online_updates:
            fresh = self._pool(state.run).fresh_model(state.run, slot, step, 0)
            state.models.pool[slot] = fresh
            return
        layers = state.run.generator("layers of the online step", step)
        with state.run.layers_drawing_from(layers):
            model.train(state.run, leaves.pixels.detach(), leaves.labels)
        model.updates += 1

    def predictor(
        self, state: DPFRePoState, leaves: Leaves
    ) -> Callable[[Tensor], Tensor]:
        """Return the regression's predictor, with features of the oldest model."""
        pool = state.models.pool.values()
        network = max(pool, key=lambda model: model.updates).network.eval()
        with torch.no_grad():
            features = _features(state.run, network, leaves.pixels)

        def predict(images: Tensor) -> Tensor:
            with torch.no_grad():
                found = _features(state.run, network, images)
                return ridge_regression(
                    features, leaves.labels, found, ridge=self.ridge
                )

        return predict


def clipped_gradients_of_weights(
    features: Tensor, targets: Tensor, weights: Tensor, clipping_norm: float
) -> Tensor:
    r"""Return the sum over examples of the clipped gradients of their errors.

    The error of an example is half of :math:`|f W - y|^2`. Its gradient in W is the
    outer product of f and :math:`r = f W - y`, with norm :math:`|f||r|`, so the
    gradients need not be formed one by one.

    Args:
        features: float64 ``(b, d)``.
        targets: float64 ``(b, classes)``.
        weights: float64 ``(d, classes)``.
        clipping_norm: the largest norm of the gradient of an example.

    Returns:
        float64 ``(d, classes)``.
    """
    residuals = features @ weights - targets
    norms = features.norm(dim=1) * residuals.norm(dim=1)
    return features.mT @ (residuals * clipping_factors(norms, clipping_norm)[:, None])


def clipped_gradients_of_images(
    weights_of: Callable[[Tensor], Tensor],
    images: Tensor,
    features: Tensor,
    targets: Tensor,
    clipping_norm: float,
) -> Tensor:
    """Return the sum over examples of the clipped gradients in the synthetic images.

    Args:
        weights_of: the regression's weights, float64 ``(d, classes)``, as a function of
            the synthetic images.
        images: the synthetic images, ``(n, channels, height, width)``.
        features: the features of real examples, float64 ``(b, d)``.
        targets: their targets, float64 ``(b, classes)``.
        clipping_norm: the largest norm of the gradient of an example.

    Returns:
        float64, of the shape of ``images``.
    """
    weights, pull = torch.func.vjp(weights_of, images)[:2]
    residuals = features @ weights - targets

    def gradient(feature: Tensor, residual: Tensor) -> Tensor:
        found: Tensor
        (found,) = pull(torch.outer(feature, residual))
        return found

    total = torch.zeros(images.shape, dtype=torch.float64, device=images.device)
    for some in torch.split(torch.arange(len(features)), _AT_ONCE):
        found = torch.func.vmap(gradient)(features[some], residuals[some]).double()
        # An image without a finite gradient adds nothing, and cannot stop the run.
        finite = found.flatten(1).isfinite().all(dim=1)
        found = torch.where(finite.view(-1, *[1] * images.ndim), found, 0)
        factors = clipping_factors(found.flatten(1).norm(dim=1), clipping_norm)
        total += torch.einsum("b,b...->...", factors, found)
    return total


def _solved(features: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Return the regression's weights, by operations with batching rules."""
    gram = features @ features.mT
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    gram = gram + ridge * gram.diagonal().mean() * eye
    solved: Tensor = features.mT @ torch.linalg.solve(gram, targets)
    return solved


def _features(run: Run, network: FeatureNetwork, images: Tensor) -> Tensor:
    """Return features of norm 1."""
    return F.normalize(features_of(run, network, images))
