"""Distances between the gradients, or features, of real and synthetic images."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["gradient_distance", "mean_feature_distance"]

_EPSILON = 1e-6


def gradient_distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Tensor:
    """Return the distance between two gradients: one minus the cosine, unit by unit.

    The gradient of each weight is cut into one vector for each output unit, and the
    distances of all these vectors are added up. One-dimensional gradients (biases,
    scales of a normalisation layer) are left out.

    Args:
        real: the gradient of each parameter on real images, in the network's order.
        synthetic: likewise on synthetic images, of the same shapes; differentiable.

    Returns:
        A 0-d tensor: from 0 to twice the number of output units.

    Reference: Zhao, Mopuri, Bilen, arXiv 2006.05929, equation 10 and its released code.
    """
    distances = [
        (1 - _cosine_by_row(one.flatten(1), other.flatten(1))).sum()
        for one, other in zip(real, synthetic, strict=True)
        if one.ndim > 1
    ]
    return torch.stack(distances).sum()


def _cosine_by_row(one: Tensor, other: Tensor) -> Tensor:
    lengths = [torch.linalg.vector_norm(rows, dim=1) for rows in (one, other)]
    cosine: Tensor = (one * other).sum(dim=1) / (lengths[0] * lengths[1] + _EPSILON)
    return cosine


def mean_feature_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return the squared distance between the mean features of two sets of images.

    Args:
        real: features of shape ``(m, d)``.
        synthetic: features of shape ``(n, d)``; differentiable.

    Returns:
        A 0-d tensor.

    Reference: Zhao, Bilen, "Dataset Condensation with Distribution Matching", WACV
    2023, arXiv 2110.04181, equation 6.
    """
    return (real.mean(dim=0) - synthetic.mean(dim=0)).square().sum()
