"""Observations of releases: outputs and distances for each example."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugins.api import Images, real_outputs
from dd_privacy.audit.mechanisms.base import Release

__all__ = ["observe", "scale_of_outputs"]


def observe(release: Release, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the observations of a release, for each example.

    Args:
        release: the release of a mechanism.
        images: the examples: uint8, or float in [0, 1], of shape ``(n, channels,
            height, width)``.
        labels: int64 ``(n,)``: their labels.

    Returns:
        The fields of :class:`~dd_privacy.audit.attacks.base.Observations`, on the CPU:
        ``outputs``, float32 ``(n, classes)``; and with released images
        ``pixel_distance``, float32 ``(n,)``, at least 0, and ``feature_distance``,
        float32 ``(n,)``, in [0, 2].
    """
    network, distilled = release.network, release.distilled
    device = next(network.parameters()).device
    examples = Images(images, labels)

    def outputs_of(function: Callable[[Tensor], Tensor]) -> Tensor:
        return real_outputs(function, examples, release.transform, device=device)

    if distilled is None:
        return {"outputs": outputs_of(network)}
    released = distilled.images.to(device)
    with torch.no_grad():
        released_features = F.normalize(network.features(released))

    def all_at_once(pixels: Tensor) -> Tensor:
        """Return outputs and both distances from one pass through the network."""
        features = network.features(pixels)
        by_pixels = _nearest(pixels.flatten(1), released.flatten(1))
        by_features = _nearest(F.normalize(features), released_features)
        distances = torch.stack([by_pixels, by_features], dim=1)
        return torch.cat([network.head(features).cpu(), distances], dim=1)

    columns = outputs_of(all_at_once)
    return {
        "outputs": columns[:, :-2].contiguous(),
        "pixel_distance": columns[:, -2].contiguous(),
        "feature_distance": columns[:, -1].contiguous(),
    }


def scale_of_outputs(outputs: Tensor, labels: Tensor) -> float:
    """Return the factor for regression outputs before a softmax.

    Outputs near 0 and 1 would give nearly equal probabilities, and blind every attack
    on them. The factor is the power of two, in a range, with the greatest likelihood of
    the labels.

    Args:
        outputs: outputs for the population, ``(n, classes)``.
        labels: int64 ``(n,)``: its labels. Without any, the factor is 1.
    """
    if not len(labels):
        return 1.0
    return min(
        (2.0**power for power in range(-2, 8)),
        key=lambda scale: float(F.cross_entropy(scale * outputs, labels)),
    )


def _nearest(examples: Tensor, images: Tensor) -> Tensor:
    """Return the distance of each example to the nearest image, float32 ``(n,)``.

    It is computed in float64 on the CPU: matrix products in lower precision lose the
    small distance of a copy.
    """
    distances = torch.cdist(examples.cpu().double(), images.cpu().double())
    return distances.min(dim=1).values.float()
