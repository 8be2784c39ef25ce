"""Statistics of what BatchNorm sees, against plain sums in float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from dd_plugins.functional.batch_norm import (
    LayerStatistics,
    statistics_distance,
    watched_statistics,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def network() -> nn.Sequential:
    """Return two layers of BatchNorm whose running statistics differ."""
    layers = nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3)
    )
    for number, layer in enumerate((layers[0], layers[2])):
        channels = layer.num_features  # type: ignore[union-attr]
        layer.running_mean.copy_(random(channels, seed=number))  # type: ignore[operator, union-attr]
        layer.running_var.copy_(random(channels, seed=number + 5).square() + 0.1)  # type: ignore[operator, union-attr]
    return layers.eval()


def by_hand(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and biased variance of each channel."""
    means, variances = [], []
    for channel in range(images.shape[1]):
        values = [float(x) for x in images[:, channel].flatten()]
        mean = math.fsum(values) / len(values)
        means.append(mean)
        variances.append(math.fsum((x - mean) ** 2 for x in values) / len(values))
    return means, variances


def test_each_layer_says_what_it_saw_in_the_order_of_layers() -> None:
    images, module = random(4, 2, 3, 5, seed=9).float(), network()
    with watched_statistics(module) as found:
        module(images)
    module(images)  # nobody watches now
    assert [len(each.mean) for each in found] == [2, 3]
    inputs = [images, module[1](module[0](images)).detach()]
    for layer, seen, statistics in zip((0, 2), inputs, found, strict=True):
        means, variances = by_hand(seen)
        torch.testing.assert_close(statistics.mean, torch.tensor(means))
        torch.testing.assert_close(statistics.variance, torch.tensor(variances))
        assert statistics.running_mean is module[layer].running_mean
        assert statistics.running_variance is module[layer].running_var


def made_layers() -> list[LayerStatistics]:
    return [
        LayerStatistics(
            random(size, seed=size),
            random(size, seed=size + 1).square(),
            random(size, seed=size + 2),
            random(size, seed=size + 3).square(),
        )
        for size in (3, 4, 5)
    ]


def length(values: Tensor) -> float:
    return math.sqrt(math.fsum(float(x) ** 2 for x in values))


@pytest.mark.parametrize("first", [0.0, 1.0, 10.0])
def test_the_published_distance_is_a_weighted_sum_of_lengths(first: float) -> None:
    layers = made_layers()
    expected = 0.0
    for weight, (mean, variance, real_mean, real_variance) in zip(
        (first, 1, 1), layers, strict=True
    ):
        expected += weight * length(mean - real_mean)
        expected += weight * length(variance - real_variance)
    found = statistics_distance(layers, first=first, by_layer=False)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_by_layer_neither_depth_nor_scale_matters() -> None:
    layers = made_layers()
    plain = float(statistics_distance(layers, first=1.0, by_layer=True))
    twice = float(statistics_distance(layers * 2, first=1.0, by_layer=True))
    assert twice == pytest.approx(plain)
    scaled = [
        LayerStatistics(
            1000 * each.mean,
            1e6 * each.variance,
            1000 * each.running_mean,
            1e6 * each.running_variance,
        )
        for each in layers
    ]
    found = float(statistics_distance(scaled, first=1.0, by_layer=True))
    assert found == pytest.approx(plain, rel=1e-5)
    mean, variance, real_mean, real_variance = layers[0]
    expected = length(mean - real_mean) / math.sqrt(float(real_variance.sum()))
    expected += length(variance - real_variance) / length(real_variance)
    alone = statistics_distance(layers[:1], first=7.0, by_layer=True)
    assert float(alone) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("by_layer", [True, False])
def test_it_is_differentiable_in_the_images(by_layer: bool) -> None:
    module = network().double()

    def distance(images: Tensor) -> Tensor:
        with watched_statistics(module) as layers:
            module(images)
        return statistics_distance(layers, first=3.0, by_layer=by_layer)

    # Statistics are noted in float32, as a run's precision may be lower.
    images = random(3, 2, 2, 2, seed=4).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(images), [images])
    step = 1e-2
    for place in range(0, images.numel(), 5):
        moved = torch.zeros(images.numel(), dtype=torch.float64)
        moved[place] = step
        moved = moved.view_as(images)
        with torch.no_grad():
            slope = distance(images + moved) - distance(images - moved)
        expected = float(slope) / (2 * step)
        assert float(gradient.flatten()[place]) == pytest.approx(
            expected, rel=2e-2, abs=1e-3
        )
