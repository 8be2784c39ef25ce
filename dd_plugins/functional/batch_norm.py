"""Statistics of the inputs of BatchNorm, and how far they are from the running ones."""

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
        mean: of the layer's input in a batch.
        variance: of the same, biased.
        running_mean: of the network's training data.
        running_variance: likewise.
    """

    mean: Tensor
    variance: Tensor
    running_mean: Tensor
    running_variance: Tensor


@contextmanager
def watched_statistics(network: nn.Module) -> Iterator[list[LayerStatistics]]:
    """Note the statistics of every BatchNorm layer while images pass through.

    Args:
        network: the network to watch.

    Yields:
        A list. Each forward pass appends its layers, in their order; differentiable in
        the images.
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
        layers: of each BatchNorm layer, in the order of the forward pass.
        first: weight of the first layer; all others have 1.
        by_layer: whether the distance of the means is divided by the spread of the
            data (the root of the sum of running variances), that of the variances by
            the length of the running ones, and the weighted mean over the layers is
            taken: then one weight of the whole serves networks of any depth and scale.
            Else the sum, as published.

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
    """Return the distance of the mean and of the variance of one layer."""
    pairs = (
        (layer.mean, layer.running_mean),
        (layer.variance, layer.running_variance),
    )
    if not relative:
        return torch.stack([torch.linalg.vector_norm(a - b) for a, b in pairs]).sum()
    # The spread of the data is the unit of its means, whose own length may be near 0.
    units = (layer.running_variance.sum().sqrt(), layer.running_variance.norm())
    return torch.stack(
        [
            torch.linalg.vector_norm(a - b) / (unit + _EPSILON)
            for (a, b), unit in zip(pairs, units, strict=True)
        ]
    ).sum()
