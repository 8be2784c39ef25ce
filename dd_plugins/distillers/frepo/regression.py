"""The regression from the synthetic to the real features, and its gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.profiler import record_function

from dd_plugins.distillers.frepo.defaults import Loss
from dd_plugins.functional.kernel_regression import (
    calibrated_cross_entropy,
    half_squared_error,
    margin_loss,
    ridge_regression,
)
from dd_plugins.networks.base import FeatureNetwork, features_in_chunks
from dd_plugins.run import Run

__all__ = ["MetaGradient", "Regression", "Solve", "features_of", "solve_or_raise"]


class MetaGradient(NamedTuple):
    """The gradients of a step, and its figures.

    If ``failed`` is true, the regression failed and the rest is meaningless.
    """

    view: Tensor
    labels: Tensor
    loss: Tensor
    margin_loss: Tensor
    batch_accuracy: Tensor
    failed: Tensor


class Solve(Protocol):
    """Kernel regression with a flag for failure."""

    def __call__(
        self,
        syn_features: Tensor,
        syn_targets: Tensor,
        features: Tensor,
        *,
        ridge: float,
    ) -> tuple[Tensor, Tensor]:
        """Return predictions, and whether they are meaningless."""


@dataclass(frozen=True)
class Regression:
    """Predicts real labels from the synthetic set, on the features of a model.

    Attributes:
        ridge: relative to the mean eigenvalue of the kernel.
        loss: the loss of the predictions.
        flip: whether flipped copies join the synthetic images.
        learn_labels: whether the gradient of the labels is computed.
        chunk_size: images with activations in memory at once, for the backward pass.
            With more images, features are computed without a graph, and again with a
            graph for each chunk: this bounds the memory, for one more forward pass.
        intercept: whether the regression has an intercept: features and labels less
            their means over the support.
    """

    ridge: float
    loss: Loss
    flip: bool
    learn_labels: bool
    chunk_size: int
    intercept: bool = False

    def predictor(
        self, run: Run, network: FeatureNetwork, pixels: Tensor, labels: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return the predictor of ``(b, classes)`` for images ``(b, c, h, w)``."""
        with torch.no_grad():
            syn_features = features_of(run, network, self._with_flipped(pixels))
            targets = _labels_of(labels, syn_features)

        def predict(images: Tensor) -> Tensor:
            with torch.no_grad():
                features = features_of(run, network, images)
                predictions, _ = self._predict(
                    solve_or_raise, syn_features, targets, features
                )
            return predictions

        return predict

    def gradient(
        self,
        solve: Solve,
        run: Run,
        network: FeatureNetwork,
        view: Tensor,
        labels: Tensor,
        features: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the fields of :class:`MetaGradient`.

        Args:
            solve: the regression. With ``ridge_regression_ex`` nothing is read from a
                GPU, so the whole function can be recorded there.
            run: the run.
            network: gives the features.
            view: the support of the regression.
            labels: of the set.
            features: of real images.
            targets: of the same.

        Raises:
            RunError: by :func:`solve_or_raise`, if the kernel is singular with any
                ridge.
        """
        view = view.detach().requires_grad_()
        labels = labels.detach().requires_grad_(self.learn_labels)
        support = self._with_flipped(view)
        in_chunks = len(support) > self.chunk_size
        with (
            record_function("frepo: synthetic forward"),
            torch.set_grad_enabled(not in_chunks),
        ):
            syn_features = features_of(run, network, support)
        # The graph is walked in two halves: from the loss to features and labels, then
        # from the features to the view. So the profiler can separate them, and the
        # first half is freed before the second begins.
        inner = syn_features.detach().requires_grad_()
        with record_function("frepo: regression"):
            predictions, failed = self._predict(
                solve, inner, _labels_of(labels, inner), features
            )
            loss = self._loss_of(predictions, targets)
            margin = margin_loss(labels)
            if self.learn_labels:
                gradient, labels_gradient = torch.autograd.grad(
                    loss + margin, [inner, labels]
                )
            else:
                (gradient,) = torch.autograd.grad(loss, [inner])
                labels_gradient = torch.zeros_like(labels)
        with record_function("frepo: synthetic backward"):
            if in_chunks:
                gradient = self._chunked_gradient(run, network, support, gradient)
                syn_features = support
            (view_gradient,) = torch.autograd.grad(syn_features, [view], gradient)
        right = predictions.argmax(dim=1) == targets.argmax(dim=1)
        return MetaGradient(
            view_gradient,
            labels_gradient,
            loss.detach(),
            margin.detach(),
            right.float().mean(),
            failed,
        )

    def _predict(
        self, solve: Solve, support: Tensor, labels: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return predictions for real features, and whether they are meaningless."""
        if not self.intercept:
            return solve(support, labels, features, ridge=self.ridge)
        centre, mean = support.mean(dim=0), labels.mean(dim=0)
        predictions, failed = solve(
            support - centre, labels - mean, features - centre, ridge=self.ridge
        )
        return predictions + mean, failed

    def _chunked_gradient(
        self, run: Run, network: FeatureNetwork, support: Tensor, gradient: Tensor
    ) -> Tensor:
        """Return the gradient of the images from that of their features, by chunks."""
        found: list[Tensor] = []
        for images, part in zip(
            torch.split(support.detach(), self.chunk_size),
            torch.split(gradient, self.chunk_size),
            strict=True,
        ):
            leaf = images.clone().requires_grad_()
            features = features_of(run, network, leaf)
            found += torch.autograd.grad(features, [leaf], part)
        return torch.cat(found)

    def _with_flipped(self, images: Tensor) -> Tensor:
        """Return the images and, where asked for, flipped copies after them."""
        return torch.cat([images, images.flip(-1)]) if self.flip else images

    def _loss_of(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of predictions, both of shape ``(b, classes)``."""
        if self.loss == "cross-entropy":
            return calibrated_cross_entropy(predictions, targets.argmax(dim=1))
        return half_squared_error(predictions, targets)


def features_of(run: Run, network: FeatureNetwork, images: Tensor) -> Tensor:
    """Return the features of images, in the run's precision.

    BatchNorm is in evaluation mode, for real images too: its statistics come from the
    model's synthetic training batches.
    """
    with run.autocast():
        return features_in_chunks(network.eval(), images)


def _labels_of(labels: Tensor, support: Tensor) -> Tensor:
    """Return the labels of the support: those of the set, once for each copy of it."""
    return labels.repeat(len(support) // len(labels), 1)


def solve_or_raise(
    syn_features: Tensor, syn_targets: Tensor, features: Tensor, *, ridge: float
) -> tuple[Tensor, Tensor]:
    """Predict, with a ridge growing until the kernel is regular, or raise."""
    predictions = ridge_regression(syn_features, syn_targets, features, ridge=ridge)
    return predictions, torch.tensor(False)
