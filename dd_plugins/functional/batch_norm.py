"""Statistics of BatchNorm inputs, and their distance from the running statistics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["LayerStatistics", "statistics_distance", "watched_statistics"]

_EPSILON = 1e-6


class LayerStatistics(NamedTuple):
    """The statistics of one BatchNorm layer, by channel; each of shape ``(c,)``.

    Attributes:
        mean: mean of the layer's input over a batch.
        variance: biased variance of the same input.
        running_mean: running mean over the network's training data.
        running_variance: running variance, likewise.
    """

    mean: Tensor
    variance: Tensor
    running_mean: Tensor
    running_variance: Tensor


@contextmanager
def watched_statistics(network: nn.Module) -> Iterator[list[LayerStatistics]]:
    """Record the statistics of every BatchNorm layer while images pass through.

    Args:
        network: the network to watch.

    Yields:
        A list. Each forward pass appends the statistics of its layers, in the order of
        their calls; differentiable in the images.
    """
    found: list[LayerStatistics] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        values = inputs[0].float()
        mean = values.mean(dim=(0, 2, 3))
        # torch's variance makes a step of SRe2L on a CPU a third longer.
        variance = (values - mean[:, None, None]).square().mean(dim=(0, 2, 3))
        found.append(
            LayerStatistics(mean, variance, layer.running_mean, layer.running_var)
        )

    handles = [
        layer.register_forward_pre_hook(note)
        for layer in network.modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def statistics_distance(
    layers: Sequence[LayerStatistics], *, first: float, by_layer: bool
) -> Tensor:
    """Return the distance between the statistics of images and of the real data.

    Args:
        layers: statistics of each BatchNorm layer, in the order of the forward pass.
        first: weight of the first layer; all others have 1.
        by_layer: whether to normalise by layer. The distance of the means is divided by
            the spread of the data (the root of the sum of running variances), the
            distance of the variances by the norm of the running variances, and the
            result is the weighted mean over the layers. So one overall weight serves
            networks of any depth and scale. Otherwise it is the sum, as published.

    Returns:
        A 0-d tensor: the sum, or the mean, over the layers of ``||mean - running
        mean||_2 + ||variance - running variance||_2``, each times its weight.

    Reference: Yin et al., arXiv 2306.13092, equation 9, and its released code, for the
    weight of the first layer.
    """
    weights = [first] + [1.0] * (len(layers) - 1)
    total = torch.stack(
        [
            weight * _distance(layer, by_layer)
            for weight, layer in zip(weights, layers, strict=True)
        ]
    ).sum()
    return total / sum(weights) if by_layer else total


def _distance(layer: LayerStatistics, relative: bool) -> Tensor:
    """Return the distance of one layer's means plus that of its variances."""
    pairs = (
        (layer.mean, layer.running_mean),
        (layer.variance, layer.running_variance),
    )
    if not relative:
        return torch.stack([torch.linalg.vector_norm(a - b) for a, b in pairs]).sum()
    # Means are measured by the spread of the data: their own norm may be near 0.
    units = (layer.running_variance.sum().sqrt(), layer.running_variance.norm())
    return torch.stack(
        [
            torch.linalg.vector_norm(a - b) / (unit + _EPSILON)
            for (a, b), unit in zip(pairs, units, strict=True)
        ]
    ).sum()
