"""The regression from the synthetic to the real features, and its gradient."""

from collections.abc import Callable, Sequence
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
    predictions_of_blocks,
    ridge_regression,
    weights_of_blocks,
)
from dd_plugins.functional.tangent_kernel import TangentKernel
from dd_plugins.networks.base import FeatureNetwork, chunks_of
from dd_plugins.run import Run

__all__ = ["MetaGradient", "Regression", "Solve", "solve_or_raise"]


_PREDICTED = 256  # images to predict whose features are in memory at once


class MetaGradient(NamedTuple):
    """The gradients and the metrics of a step.

    If ``failed`` is true, the regression failed and the rest is meaningless. Without
    learned labels, their gradient and the margin loss are 0.
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
        syn_features: Sequence[Tensor],
        syn_targets: Tensor,
        features: Sequence[Tensor],
        *,
        ridge: float,
    ) -> tuple[Tensor, Tensor]:
        """Return predictions, and whether they are meaningless."""


@dataclass(frozen=True)
class Regression:
    """The regression from the synthetic set to real labels, on a model's features.

    Attributes:
        ridge: relative to the mean eigenvalue of the kernel.
        loss: the loss of the predictions.
        flip: whether flipped copies join the synthetic images.
        learn_labels: whether the gradient of the labels is computed.
        chunk_size: images with activations in memory at once, for the backward pass.
            With more images, features are computed without a graph, and again with a
            graph for each chunk. This bounds the memory, at the cost of one more
            forward pass. On a GPU it bounds passes without a graph too; a CPU takes
            fewer images at a time anyway.
        intercept: whether the regression has an intercept: features and labels minus
            their means over the support.
        kernel: the kernel of the regression; None for that of the features alone.
    """

    ridge: float
    loss: Loss
    flip: bool
    learn_labels: bool
    chunk_size: int
    intercept: bool = False
    kernel: TangentKernel | None = None

    def draw(
        self, run: Run, network: FeatureNetwork, generator: torch.Generator
    ) -> Tensor:
        """Return the random draw of the kernel for one use of a network."""
        if self.kernel is None:
            return torch.empty(0, device=run.device)
        drawn = self.kernel.draw(network, run.task.num_classes, generator)
        return drawn.to(run.device)

    def blocks(
        self,
        run: Run,
        network: FeatureNetwork,
        images: Tensor,
        drawn: Tensor,
        *,
        differentiable: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return features of images, in blocks whose kernels add up.

        BatchNorm is in evaluation mode, for real images too: its statistics come from
        the model's synthetic training batches.

        Args:
            run: the run.
            network: gives the features.
            images: ``(n, channels, height, width)``.
            drawn: the result of :meth:`draw`.
            differentiable: whether the features can be differentiated by the images.
        """
        network.eval()
        with run.autocast(), torch.set_grad_enabled(differentiable):
            parts = [
                (network.features(chunk),)
                if self.kernel is None
                else self.kernel.features(
                    network, chunk, drawn, differentiable=differentiable
                )
                for chunk in self._chunks(images, differentiable)
            ]
            if len(parts) == 1:
                return parts[0]
            return tuple(torch.cat(block) for block in zip(*parts, strict=True))

    def _chunks(self, images: Tensor, differentiable: bool) -> Sequence[Tensor]:
        """Return images in chunks to compute at a time; on a GPU a graph needs all."""
        if differentiable or images.device.type == "cpu":
            return chunks_of(images)
        return torch.split(images, self.chunk_size)

    def predictor(
        self, run: Run, network: FeatureNetwork, pixels: Tensor, labels: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return the predictor of ``(b, classes)`` for images ``(b, c, h, w)``."""
        drawn = self.draw(run, network, run.generator("kernel of the predictions"))
        support = self._with_flipped(pixels.detach())
        syn_features = self.blocks(run, network, support, drawn)
        targets = _labels_of(labels.detach(), support)
        centres, mean = self._centre(syn_features, targets)
        weights = weights_of_blocks(
            _less(syn_features, centres), targets - mean, ridge=self.ridge
        )

        def predict(images: Tensor) -> Tensor:
            found = []
            for part in torch.split(images, _PREDICTED):
                features = _less(self.blocks(run, network, part, drawn), centres)
                found.append(predictions_of_blocks(features, weights) + mean)
            return torch.cat(found).to(targets.dtype)

        return predict

    def gradient(
        self,
        solve: Solve,
        run: Run,
        network: FeatureNetwork,
        view: Tensor,
        labels: Tensor,
        targets: Tensor,
        drawn: Tensor,
        *features: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the fields of :class:`MetaGradient`.

        Args:
            solve: the solver. With ``ridge_regression_ex`` nothing is read from a GPU,
                so the whole function can be recorded there.
            run: the run.
            network: gives the features.
            view: the support of the regression.
            labels: labels of the set.
            targets: targets of real images.
            drawn: random draw of the kernel, the same as for the real features.
            *features: features of the real images, in blocks.

        Raises:
            RunError: by :func:`solve_or_raise`, if the kernel is singular with any
                ridge.
        """
        view = view.detach().requires_grad_()
        labels = labels.detach().requires_grad_(self.learn_labels)
        support = self._with_flipped(view)
        in_chunks = len(support) > self.chunk_size
        with record_function("frepo: synthetic forward"):
            syn_features = self.blocks(
                run, network, support, drawn, differentiable=not in_chunks
            )
        # The graph is walked in two halves: from the loss to features and labels, then
        # from the features to the view. So the profiler can separate them, and the
        # first half is freed before the second begins.
        inner = [block.detach().requires_grad_() for block in syn_features]
        with record_function("frepo: regression"):
            predictions, failed = self._predict(
                solve, inner, _labels_of(labels, support), features
            )
            loss = self._loss_of(predictions, targets)
            if self.learn_labels:
                margin = margin_loss(labels)
                *gradients, labels_gradient = torch.autograd.grad(
                    loss + margin, [*inner, labels]
                )
            else:
                margin = torch.zeros_like(loss)
                gradients = list(torch.autograd.grad(loss, inner))
                labels_gradient = torch.zeros_like(labels)
        with record_function("frepo: synthetic backward"):
            if in_chunks:
                gradients = [
                    self._chunked_gradient(run, network, support, drawn, gradients)
                ]
                syn_features = (support,)
            view_gradient = _gradient_through(syn_features, view, gradients)
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
        self,
        solve: Solve,
        support: Sequence[Tensor],
        labels: Tensor,
        features: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return predictions for real features, and whether they are meaningless."""
        centres, mean = self._centre(support, labels)
        predictions, failed = solve(
            _less(support, centres),
            labels - mean,
            _less(features, centres),
            ridge=self.ridge,
        )
        return predictions + mean, failed

    def _centre(
        self, support: Sequence[Tensor], labels: Tensor
    ) -> tuple[Sequence[Tensor] | None, Tensor | float]:
        """Return the means of features and labels; None and 0 without intercept."""
        if not self.intercept:
            return None, 0.0
        return [each.mean(dim=0) for each in support], labels.mean(dim=0)

    def _chunked_gradient(
        self,
        run: Run,
        network: FeatureNetwork,
        support: Tensor,
        drawn: Tensor,
        gradients: Sequence[Tensor],
    ) -> Tensor:
        """Return the gradient by the images, from that by their features, in chunks."""
        found: list[Tensor] = []
        for images, *parts in zip(
            torch.split(support.detach(), self.chunk_size),
            *(torch.split(gradient, self.chunk_size) for gradient in gradients),
            strict=True,
        ):
            leaf = images.clone().requires_grad_()
            blocks = self.blocks(run, network, leaf, drawn, differentiable=True)
            found.append(_gradient_through(blocks, leaf, parts))
        return torch.cat(found)

    def _with_flipped(self, images: Tensor) -> Tensor:
        """Return the images and, if wanted, flipped copies after them."""
        return torch.cat([images, images.flip(-1)]) if self.flip else images

    def _loss_of(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of predictions, both of shape ``(b, classes)``."""
        if self.loss == "cross-entropy":
            return calibrated_cross_entropy(predictions, targets.argmax(dim=1))
        return half_squared_error(predictions, targets)


def _gradient_through(
    blocks: Sequence[Tensor], images: Tensor, gradients: Sequence[Tensor]
) -> Tensor:
    """Return the gradient by the images, from those by the blocks with a graph."""
    pairs = [
        (block, gradient)
        for block, gradient in zip(blocks, gradients, strict=True)
        if block.requires_grad
    ]
    (found,) = torch.autograd.grad(
        [block for block, _ in pairs], [images], [gradient for _, gradient in pairs]
    )
    return found


def _less(
    blocks: Sequence[Tensor], centres: Sequence[Tensor] | None
) -> Sequence[Tensor]:
    """Return blocks minus their centres, or unchanged if there are none."""
    if centres is None:
        return blocks
    return [block - centre for block, centre in zip(blocks, centres, strict=True)]


def _labels_of(labels: Tensor, support: Tensor) -> Tensor:
    """Return the labels of the support: the set's labels, once for each copy."""
    return labels.repeat(len(support) // len(labels), 1)


def solve_or_raise(
    syn_features: Sequence[Tensor],
    syn_targets: Tensor,
    features: Sequence[Tensor],
    *,
    ridge: float,
) -> tuple[Tensor, Tensor]:
    """Predict, with a growing ridge, or raise if the kernel stays singular."""
    predictions = ridge_regression(syn_features, syn_targets, features, ridge=ridge)
    return predictions, torch.tensor(False)
