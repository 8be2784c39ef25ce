"""Kernel ridge regression on features, and the losses of FRePo that stand on it.

References: Zhou, Nezhadarya, Ba, "Dataset Distillation using Neural Feature
Regression", NeurIPS 2022, arXiv 2206.00719, section 3 and its released code; for
:func:`calibrated_cross_entropy` Loo, Hasani, Amini, Rus, "Efficient Dataset
Distillation using Random Feature Approximation", NeurIPS 2022, arXiv 2210.12067.
"""

import torch
from torch import Tensor

from dd_plugins.errors import OptionError, RunError

__all__ = [
    "calibrated_cross_entropy",
    "centred_targets",
    "half_squared_error",
    "margin_loss",
    "ridge_regression",
    "ridge_regression_ex",
]

_SMALLEST_JITTER = 1e-12  # where a ridge of 0 begins to grow
_JITTER_STEPS = 6
_JITTER_GROWTH = 10.0

# Newton's method for the scale of calibrated_cross_entropy: to 1e-7 of the loss.
_FIRST_SCALE = 10.0
_SCALES = (0.1, 1000.0)
_NEWTON_STEPS = 16
_LARGEST_CHANGE = 4.0  # of the scale, as a factor, in a step


def ridge_regression(
    syn_features: Tensor, syn_targets: Tensor, features: Tensor, *, ridge: float = 1e-6
) -> Tensor:
    r"""Predict targets for ``features`` by kernel ridge regression on a synthetic set.

    .. math:: K_{ts}\,\bigl(K_{ss} + \lambda\,\tfrac{\mathrm{tr} K_{ss}}{n}\,
        I\bigr)^{-1}\,Y_s, \qquad K_{ab} = \Phi_a \Phi_b^\top

    The ridge is relative to the mean eigenvalue of the kernel, so it does not depend on
    the scale of the features. Gram matrix, factorisation and solve run in float64
    whatever the precision of the features: with a ridge of 1e-6 the rounding of
    float32, and all the more of TF32, can leave the matrix indefinite. If the
    factorisation fails all the same (features that are equal up to rounding), the ridge
    grows tenfold, up to six times.

    The cross kernel is never formed: :math:`K_{ts} A = \Phi_t (\Phi_s^\top A)` takes
    ``(n + b) d classes`` multiplications instead of ``n b d``. The last product runs in
    float32, or in float64 if the features are of that dtype.

    Args:
        syn_features: shape ``(n, d)``, any floating dtype.
        syn_targets: shape ``(n, classes)``.
        features: shape ``(b, d)``.
        ridge: relative ridge, not negative.

    Returns:
        Predictions of shape ``(b, classes)`` in the dtype of ``syn_targets``;
        differentiable in all three tensors.

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
    if ridge < 0:
        raise OptionError(f"ridge must not be negative, got {ridge}")
    for attempt in range(_JITTER_STEPS + 1):
        relative = ridge
        if attempt > 0:
            relative = max(ridge, _SMALLEST_JITTER) * _JITTER_GROWTH**attempt
        predictions, failed = ridge_regression_ex(
            syn_features, syn_targets, features, ridge=relative
        )
        if not failed:
            return predictions
        if not torch.isfinite(syn_features).all():
            raise RunError("the kernel of the synthetic features is not finite")
    raise RunError(
        f"the kernel of the synthetic features is not positive definite, even with a "
        f"relative ridge of {relative:g}: the features are all alike or zero; "
        "use a larger ridge, another network or a smaller learning rate"
    )


def ridge_regression_ex(
    syn_features: Tensor, syn_targets: Tensor, features: Tensor, *, ridge: float
) -> tuple[Tensor, Tensor]:
    """Predict as :func:`ridge_regression` does, once, and tell whether it failed.

    Nothing here waits for the device or depends on a value, so a GPU can record it.

    Returns:
        The predictions, and a bool tensor of no dimension: whether the kernel was not
        finite, or not positive definite; then the predictions mean nothing.
    """
    precise = torch.promote_types(features.dtype, torch.float32)
    syn_features = _in_float64(syn_features)
    gram = syn_features @ syn_features.mT
    mean_eigenvalue = gram.diagonal().mean()
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(gram + ridge * mean_eigenvalue * identity)
    coefficients = torch.cholesky_solve(_in_float64(syn_targets), factor)
    weights = (syn_features.mT @ coefficients).to(precise).to(features.device)
    predictions = (features.to(precise) @ weights).to(syn_targets.dtype)
    return predictions, (info != 0) | ~torch.isfinite(mean_eigenvalue)


def _in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU if its device has no such numbers."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def centred_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Return one-hot targets less their mean: ``1 - 1/C`` for the class, else ``-1/C``.

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
    """
    return 0.5 * (predictions - targets).square().sum(dim=1).mean()


def calibrated_cross_entropy(predictions: Tensor, classes: Tensor) -> Tensor:
    r"""Return the cross-entropy of predictions at the scale that suits the batch best.

    .. math:: \min_{\tau}\; -\tfrac1b \sum_i \log\,
        \mathrm{softmax}(\tau\,p_i)_{y_i}, \qquad 0.1 \le \tau \le 1000

    Regression predicts values between 0 and 1, whose softmax is nearly even; scaled
    (Platt scaling), they are logits that are as sure as they are right. The loss does
    not depend on the scale of the predictions.

    Nothing here waits for the device or depends on a value, so a GPU can record it.

    Args:
        predictions: shape ``(b, classes)``, of a floating dtype.
        classes: int64 of shape ``(b,)``, in ``[0, classes)``.

    Returns:
        The mean over the batch, differentiable in the predictions: at the minimum the
        scale counts as a constant (the envelope theorem).

    Reference: arXiv 2210.12067, where it is called Platt scaling. There the scale is
    learned beside the images; here it is found for each batch, and a run has nothing
    more to keep.
    """
    known = predictions.detach()
    right = known.gather(1, classes[:, None]).mean()
    scale = known.new_full((), _FIRST_SCALE)
    for _ in range(_NEWTON_STEPS):  # the loss is convex in the scale
        probabilities = torch.softmax(scale * known, dim=1)
        means = (probabilities * known).sum(dim=1, keepdim=True)
        slope = means.mean() - right
        curvature = (probabilities * (known - means).square()).sum(dim=1).mean()
        step = slope / curvature.clamp(min=torch.finfo(known.dtype).tiny)
        scale = (scale - step).clamp(scale / _LARGEST_CHANGE, scale * _LARGEST_CHANGE)
        scale = scale.clamp(*_SCALES)
    return torch.nn.functional.cross_entropy(scale * predictions, classes)


def margin_loss(labels: Tensor) -> Tensor:
    """Return the loss that keeps each label's top two values ``1/C`` apart.

    ``mean(-min(top1 - top2, 1/C))``: constant, thus without gradient, while the margin
    is large enough. As in the released code it does not ask which class is on top.

    Args:
        labels: learnable labels of shape ``(n, classes)``, at least two classes.
    """
    top = labels.topk(2, dim=1).values
    return -(top[:, 0] - top[:, 1]).clamp(max=1 / labels.shape[1]).mean()
