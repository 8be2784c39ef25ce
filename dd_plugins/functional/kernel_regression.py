"""Kernel ridge regression on features, and FRePo's losses on top of it.

References: Zhou, Nezhadarya, Ba, "Dataset Distillation using Neural Feature
Regression", NeurIPS 2022, arXiv 2206.00719, section 3 and its released code; for
:func:`calibrated_cross_entropy` Loo, Hasani, Amini, Rus, "Efficient Dataset
Distillation using Random Feature Approximation", NeurIPS 2022, arXiv 2210.12067.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dd_plugins.errors import OptionError, RunError
from dd_plugins.runtime.device import in_float64

__all__ = [
    "calibrated_cross_entropy",
    "centred_targets",
    "half_squared_error",
    "kernel_ridge_coefficients",
    "kernel_ridge_regression",
    "margin_loss",
    "predictions_of_blocks",
    "ridge_regression",
    "ridge_regression_ex",
    "ridge_weights",
    "weights_of_blocks",
]

_SMALLEST_JITTER = 1e-12  # where a ridge of 0 begins to grow
_JITTER_STEPS = 6
_JITTER_GROWTH = 10.0

# Bounds and start of the inverse temperature of calibrated_cross_entropy, in units of
# 1 over the spread of the predictions, and Newton's steps: to 1e-5 of the loss.
_INVERSES = (0.01, 100.0)
_FIRST_INVERSE = 5.0
_NEWTON_STEPS = 12

Blocks = Tensor | Sequence[Tensor]
"""Features of shape ``(n, d)``, or a sequence of blocks of columns, ``(n, d_i)`` each.

The kernel of a sequence is the sum of the blocks' kernels.
"""


def ridge_regression(
    syn_features: Blocks, syn_targets: Tensor, features: Blocks, *, ridge: float = 1e-6
) -> Tensor:
    r"""Predict targets for ``features`` by kernel ridge regression on a synthetic set.

    .. math:: K_{ts}\,\bigl(K_{ss} + \lambda\,\tfrac{\mathrm{tr} K_{ss}}{n}\,
        I\bigr)^{-1}\,Y_s, \qquad K_{ab} = \Phi_a \Phi_b^\top

    The ridge is relative to the mean eigenvalue of the kernel, so it does not depend on
    the scale of the features. For one block, Gram matrix, factorisation and solve run
    in float64 whatever the precision of the features: with a ridge of 1e-6 the rounding
    of float32, and all the more of TF32, can leave the matrix indefinite. If the
    factorisation still fails (features equal up to rounding), the ridge grows tenfold,
    up to six times.

    Several blocks are never joined: their Gram matrices add up. They may have 100,000
    columns or more, so the products of a block run in float32, or in float64 if it is
    float64, and the solve in float64.

    The cross kernel is never formed: :math:`K_{ts} A = \Phi_t (\Phi_s^\top A)` takes
    ``(n + b) d classes`` multiplications instead of ``n b d``. The last product runs in
    float32, or in float64 if the features are float64. If one block has fewer features
    than images, the equivalent system of ``d`` equations is solved; without a ridge
    this is least squares.

    Args:
        syn_features: shape ``(n, d)``, any floating dtype, or blocks of such features.
        syn_targets: shape ``(n, classes)``.
        features: shape ``(b, d)``, or as many blocks.
        ridge: relative ridge, not negative.

    Returns:
        Predictions of shape ``(b, classes)`` in the dtype of ``syn_targets``;
        differentiable, once, in all tensors.

    Raises:
        OptionError: the ridge is negative.
        RunError: the kernel is not finite, or not positive definite with any ridge
            tried.

    Example:
        One feature, y = 2 x; a tiny ridge interpolates:

        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
        >>> ridge_regression(x, y, torch.tensor([[3.0]])).round(decimals=3)
        tensor([[6.]])

    Reference: arXiv 2206.00719, equation 4 (the closed-form solution on features).
    """
    weights = weights_of_blocks(_blocks(syn_features), syn_targets, ridge=ridge)
    return predictions_of_blocks(_blocks(features), weights).to(syn_targets.dtype)


def ridge_weights(
    syn_features: Tensor, syn_targets: Tensor, *, ridge: float = 1e-6
) -> Tensor:
    r"""Return the weights of kernel ridge regression on features.

    .. math:: W = \Phi_s^\top (K_{ss} + \lambda\,\tfrac{\mathrm{tr} K_{ss}}{n}\,
        I)^{-1}\, Y_s

    ``features @ weights`` are the predictions of :func:`ridge_regression`.

    Args:
        syn_features: shape ``(n, d)``, any floating dtype.
        syn_targets: shape ``(n, classes)``.
        ridge: relative ridge, not negative; it grows where the kernel is singular.

    Returns:
        float64 of shape ``(d, classes)``, differentiable, once, in both tensors.

    Raises:
        OptionError: the ridge is negative.
        RunError: the kernel is not finite, or not positive definite with any ridge
            tried.

    Example:
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
        >>> ridge_weights(x, y).round(decimals=3)
        tensor([[2.]], dtype=torch.float64)
    """
    (weights,) = weights_of_blocks([syn_features], syn_targets, ridge=ridge)
    return weights


def weights_of_blocks(
    blocks: Sequence[Tensor], targets: Tensor, *, ridge: float
) -> Sequence[Tensor]:
    """Return the weights of :func:`ridge_weights` for each block of features.

    Args:
        blocks: of shape ``(n, d)`` each.
        targets: shape ``(n, classes)``.
        ridge: relative ridge, not negative; it grows where the kernel is singular.

    Returns:
        ``(d, classes)`` each; float64 for one block, else in the precision of its
        products (see :func:`ridge_regression`).

    Raises:
        OptionError: the ridge is negative.
        RunError: the kernel is not finite, or not positive definite with any ridge
            tried.
    """
    for relative in _ridges_to_try(ridge):
        weights, failed = _weights(blocks, targets, relative)
        if not failed:
            return weights
        if not all(bool(torch.isfinite(block).all()) for block in blocks):
            raise RunError(
                "the synthetic features must be finite, got values that are not finite"
            )
    raise RunError(
        f"the kernel of the synthetic features is not positive definite, even with a "
        f"relative ridge of {relative:g}: features must differ and must not be zero; "
        "use a larger ridge, another network or a smaller learning rate"
    )


def kernel_ridge_regression(
    kernel: Tensor, cross_kernel: Tensor, targets: Tensor, *, ridge: float = 1e-6
) -> Tensor:
    r"""Predict targets by ridge regression from kernels alone, without features.

    .. math:: K_{ts}\,\bigl(K_{ss} + \lambda\,\tfrac{\mathrm{tr} K_{ss}}{n}\,
        I\bigr)^{-1}\,Y_s

    It is for kernels without finite features, such as a neural tangent kernel; with
    features :func:`ridge_regression` is cheaper. Everything runs in float64.

    Args:
        kernel: kernel of the support with itself, ``(n, n)``, symmetric.
        cross_kernel: kernel of other images with the support, ``(b, n)``.
        targets: targets of the support, ``(n, classes)``.
        ridge: ridge relative to the mean eigenvalue of the kernel, not negative.

    Returns:
        Predictions of shape ``(b, classes)`` in the dtype of ``targets``;
        differentiable in all three tensors.

    Raises:
        OptionError: the ridge is negative.
        RunError: the kernel is not finite, or not positive definite with any ridge
            tried.

    Reference: Nguyen, Chen, Lee, "Dataset Meta-Learning from Kernel Ridge-Regression"
    (KIP), ICLR 2021, arXiv 2011.00050, equation 3.
    """
    coefficients = kernel_ridge_coefficients(kernel, targets, ridge=ridge)
    return (cross_kernel.double() @ coefficients).to(targets.dtype)


def kernel_ridge_coefficients(
    kernel: Tensor, targets: Tensor, *, ridge: float
) -> Tensor:
    """Return the coefficients of :func:`kernel_ridge_regression`.

    Args:
        kernel: kernel of the support with itself, ``(n, n)``, symmetric.
        targets: targets of the support, ``(n, classes)``.
        ridge: ridge relative to the mean eigenvalue of the kernel, not negative.

    Returns:
        float64 of shape ``(n, classes)``, differentiable in both tensors. A cross
        kernel times these coefficients gives the predictions.

    Raises:
        OptionError: the ridge is negative.
        RunError: the kernel is not finite, or not positive definite with any ridge
            tried.
    """
    ridges = _ridges_to_try(ridge)
    if not torch.isfinite(kernel).all():
        raise RunError(
            "the kernel of the support must be finite, got values that are not finite"
        )
    precise, wanted = kernel.double(), targets.double()
    scale = precise.diagonal().mean()
    identity = torch.eye(len(precise), dtype=torch.float64, device=kernel.device)
    for relative in ridges:
        factor, failed = torch.linalg.cholesky_ex(precise + relative * scale * identity)
        if not failed:
            return torch.cholesky_solve(wanted, factor)
    raise RunError(
        "the kernel of the support is not positive definite, even with a relative "
        f"ridge of {relative:g}; expected a symmetric kernel of different images"
    )


def _ridges_to_try(ridge: float) -> list[float]:
    """Return a ridge, and larger ones in case the kernel is singular."""
    if ridge < 0:
        raise OptionError(f"ridge must not be negative, got {ridge}")
    first = max(ridge, _SMALLEST_JITTER)
    larger = [first * _JITTER_GROWTH**step for step in range(1, _JITTER_STEPS + 1)]
    return [ridge, *larger]


def ridge_regression_ex(
    syn_features: Blocks, syn_targets: Tensor, features: Blocks, *, ridge: float
) -> tuple[Tensor, Tensor]:
    """Predict like :func:`ridge_regression`, in one attempt; tell whether it failed.

    Nothing here waits for the device or branches on a value, so a GPU can record it.

    Returns:
        The predictions, and a 0-d bool tensor: whether the regression failed. It fails
        if its system, of the images or of the features if these are fewer, is not
        finite or not positive definite; the predictions are then meaningless.
    """
    weights, failed = _weights(_blocks(syn_features), syn_targets, ridge)
    predictions = predictions_of_blocks(_blocks(features), weights)
    return predictions.to(syn_targets.dtype), failed


def _blocks(features: Blocks) -> Sequence[Tensor]:
    """Return the blocks of features; a tensor is one block."""
    return [features] if isinstance(features, Tensor) else features


def predictions_of_blocks(
    blocks: Sequence[Tensor], weights: Sequence[Tensor]
) -> Tensor:
    """Return the sum of the blocks' predictions, at least in float32.

    Args:
        blocks: of shape ``(b, d)`` each.
        weights: the result of :func:`weights_of_blocks`.
    """
    found = []
    for block, own in zip(blocks, weights, strict=True):
        precise = torch.promote_types(block.dtype, torch.float32)
        found.append(block.to(precise) @ own.to(precise).to(block.device))
    return functools.reduce(torch.add, found)


def _weights(
    blocks: Sequence[Tensor], targets: Tensor, ridge: float
) -> tuple[Sequence[Tensor], Tensor]:
    """Return the weights of each block, and whether the regression failed."""
    if len(blocks) == 1:
        precise = [in_float64(blocks[0])]
    else:
        precise = [
            block.to(torch.promote_types(block.dtype, torch.float32))
            for block in blocks
        ]
    *weights, failed = _RidgeWeights.apply(in_float64(targets), ridge, *precise)
    return weights, failed


class _RidgeWeights(torch.autograd.Function):
    r"""The weights :math:`W` of each block, ``(d, classes)``, and a flag of failure.

    With :math:`\lambda` the absolute ridge, :math:`W = \Phi^\top A` of
    :math:`(\Phi\Phi^\top + \lambda I)\,A = Y`, or, if one block has fewer features than
    images, the solution of :math:`(\Phi^\top\Phi + \lambda I)\,W = \Phi^\top Y`.
    For several blocks :math:`\Phi\Phi^\top` is the sum.

    The gradient comes from the equation, not from the steps of its solution. It takes
    one more solve with the same factor, and products with matrices of as many columns
    as there are classes. Differentiating the factorisation would take several products
    of its own size.
    """

    @staticmethod
    def forward(
        ctx: Any, targets: Tensor, ridge: float, *blocks: Tensor
    ) -> tuple[Tensor, ...]:
        # Both systems give the same weights: the smaller one is cheaper to factor.
        tall = len(blocks) == 1 and len(targets) > blocks[0].shape[1]
        if tall:
            gram = blocks[0].mT @ blocks[0]
        else:
            gram = _sum_of(block @ block.mT for block in blocks)
        if len(blocks) == 1:
            squares = blocks[0].square().sum()
        else:  # this makes no copy of a large block
            squares = gram.diagonal().sum()
        mean_eigenvalue = squares / len(targets)
        gram.diagonal().add_(ridge * mean_eigenvalue)
        factor, info = torch.linalg.cholesky_ex(gram)
        if tall:
            weights = [torch.cholesky_solve(_thin(blocks[0].mT, targets), factor)]
            # The coefficients times the ridge:
            remainders = targets - _thin(blocks[0], weights[0])
        else:
            # The coefficients themselves:
            remainders = torch.cholesky_solve(targets, factor)
            weights = [_thin(block.mT, remainders.to(block)) for block in blocks]
        failed = (info != 0) | ~torch.isfinite(mean_eigenvalue)
        ctx.mark_non_differentiable(failed)
        ctx.save_for_backward(factor, remainders, *blocks, *weights)
        ctx.ridge, ctx.tall = ridge, tall
        return *weights, failed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor, remainders, *saved = ctx.saved_tensors
        blocks, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        if ctx.tall:
            adjoints = [torch.cholesky_solve(gradients[0], factor)]
            targets_gradient = _thin(blocks[0], adjoints[0])
            of_ridge = (weights[0] * adjoints[0]).sum()
        else:
            pairs = list(zip(blocks, gradients[:-1], strict=True))
            pulled = _sum_of(_thin(block, gradient) for block, gradient in pairs)
            targets_gradient = torch.cholesky_solve(pulled, factor)
            # Here the ridge is in the adjoints:
            adjoints = [
                gradient - _thin(block.mT, targets_gradient.to(block))
                for block, gradient in pairs
            ]
            of_ridge = (remainders * targets_gradient).sum()
        scale = (-2 * ctx.ridge / len(remainders)) * of_ridge
        left = torch.cat([remainders, -targets_gradient], dim=1)
        return (
            targets_gradient,
            None,
            *(
                torch.addmm(
                    scale.to(block) * block,
                    left.to(block),
                    torch.cat([adjoint, own], dim=1).mT,
                )
                for block, adjoint, own in zip(blocks, adjoints, weights, strict=True)
            ),
        )


def _sum_of(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of the parts, in float64."""
    return functools.reduce(torch.add, map(in_float64, parts))


def _thin(matrix: Tensor, columns: Tensor) -> Tensor:
    """Return ``matrix @ columns``, where columns are few.

    For a transposed matrix and contiguous columns, such as those of a solution, the
    direct product takes a CPU thirty times as long.
    """
    return (columns.mT @ matrix.mT).mT


def centred_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Return one-hot targets minus 1/C: ``1 - 1/C`` for the class, else ``-1/C``.

    Args:
        labels: int64 of shape ``(n,)``, in ``[0, num_classes)``.
        num_classes: the number of classes C.

    Returns:
        float32 of shape ``(n, num_classes)``; each row sums to zero.
    """
    one_hot = torch.nn.functional.one_hot(labels, num_classes).float()
    return one_hot - 1 / num_classes


def half_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return half the squared error, summed over classes and averaged over the batch.

    Args:
        predictions: shape ``(b, classes)``.
        targets: shape ``(b, classes)``.

    Returns:
        0-d, differentiable in both tensors.
    """
    return 0.5 * (predictions - targets).square().sum(dim=1).mean()


def calibrated_cross_entropy(predictions: Tensor, classes: Tensor) -> Tensor:
    r"""Return the cross-entropy at the best temperature for the batch.

    .. math:: \min_{\beta > 0}\; -\tfrac1b \sum_i \sum_c t_{ic}\,\log\,
        \mathrm{softmax}(\beta\,p_i)_c, \qquad
        t_{ic} = (1 - \epsilon)\,[c = y_i] + \tfrac{\epsilon}{C}, \quad
        \epsilon = \tfrac{1}{b + 2}

    Regression predicts values between 0 and 1, whose softmax is nearly uniform. Divided
    by the best temperature, they are calibrated logits. So the loss does not depend on
    the scale of the predictions. Smoothing the labels by :math:`\epsilon` keeps the
    best temperature above zero for a batch without errors. Predictions worse than
    chance are taken at the highest temperature, a hundred times their spread.

    Nothing here waits for the device or branches on a value, so a GPU can record it.

    Args:
        predictions: shape ``(b, classes)``, of a floating dtype.
        classes: int64 of shape ``(b,)``, in ``[0, classes)``.

    Returns:
        The mean over the batch, differentiable in the predictions. The temperature
        counts as a constant, which is exact at the minimum (the envelope theorem). At
        the highest temperature the exact derivative may be zero, while this one still
        leads to correct predictions.

    References: arXiv 2210.12067, which calls it Platt scaling and learns the
    temperature with the images; here it is found for each batch, so a run has no more
    state to keep. Guo et al., "On Calibration of Modern Neural Networks", arXiv
    1706.04599 (temperature scaling).
    """
    smoothing = 1 / (len(predictions) + 2)
    tiny = torch.finfo(predictions.dtype).tiny
    known = predictions.detach()
    spread = (known.amax(dim=1) - known.amin(dim=1)).mean()
    # Constant rows are shifted to 0: divided by the least spread they would overflow.
    shift = torch.where(spread < tiny, known.amin(dim=1, keepdim=True), 0)
    spread = spread.clamp(min=tiny)
    known = (known - shift) / spread
    right = known.gather(1, classes[:, None])
    wanted = (1 - smoothing) * right.mean() + smoothing * known.mean()
    lowest, highest = (known.new_full((), bound) for bound in _INVERSES)
    inverse = known.new_full((), _FIRST_INVERSE)
    for _ in range(_NEWTON_STEPS):  # the loss is convex in the inverse temperature
        probabilities = torch.softmax(inverse * known, dim=1)
        means = (probabilities * known).sum(dim=1, keepdim=True)
        slope = means.mean() - wanted
        curvature = (probabilities * (known - means).square()).sum(dim=1).mean()
        lowest = torch.where(slope < 0, inverse, lowest)
        highest = torch.where(slope < 0, highest, inverse)
        newton = inverse - slope / curvature.clamp(min=tiny)
        inside = (lowest <= newton) & (newton <= highest)  # an end may be the minimum
        inverse = torch.where(inside, newton, (lowest * highest).sqrt())
    return torch.nn.functional.cross_entropy(
        inverse * ((predictions - shift) / spread), classes, label_smoothing=smoothing
    )


def margin_loss(labels: Tensor) -> Tensor:
    """Return the loss that keeps each label's top two values ``1/C`` apart.

    ``mean(-min(top1 - top2, 1/C))``: constant, thus without gradient, while the margin
    is large enough. As in the released code, any class may be on top.

    Args:
        labels: learnable labels of shape ``(n, classes)``, at least two classes.

    Returns:
        0-d, differentiable in the labels.
    """
    top = labels.topk(2, dim=1).values
    return -(top[:, 0] - top[:, 1]).clamp(max=1 / labels.shape[1]).mean()
