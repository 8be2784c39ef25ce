"""Kernels of infinitely wide networks against their definition, in plain loops."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dd_plugins.errors import OptionError
from dd_plugins.functional.ntk import (
    AbstractKernel,
    Convolutional,
    FullyConnected,
    GlobalAverage,
)

WEIGHT, BIAS = 2.0, 0.01  # variances: W_std is the root of 2, b_std a tenth
Pairs = dict[tuple[Any, Any], float]
PIXELS = ("xx", "yy", "xy")


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def relu(covariance: float, first: float, second: float) -> tuple[float, float]:
    scale = math.sqrt(first * second)
    cosine = max(-1.0, min(1.0, covariance / scale))
    # An angle is the root of what is missing to 1: of rounding alone it would be 1e-8.
    angle = 0.0 if cosine > 1 - 1e-14 else math.acos(cosine)
    inner = math.sin(angle) + (math.pi - angle) * cosine
    return scale * inner / (2 * math.pi), (math.pi - angle) / (2 * math.pi)


@pytest.mark.parametrize(
    "kernel",
    [
        FullyConnected(depth=2, bias_std=0.0),
        Convolutional(depth=2, bias_std=0.0),
        GlobalAverage(depth=1, bias_std=0.0),
    ],
    ids=str,
)
def test_a_black_region_without_bias_gives_numbers(kernel: AbstractKernel) -> None:
    given = images(3, 1, 4, 4)
    given[0] = 0
    given[1, :, :, :3] = 0
    given.requires_grad_()
    found = kernel(given, given)
    assert torch.isfinite(found).all()
    assert found[0].abs().max() == 0
    (gradient,) = torch.autograd.grad(found.sum(), [given])
    assert torch.isfinite(gradient).all()


def fully_connected(x: Tensor, y: Tensor, depth: int) -> tuple[float, float]:
    """Return NNGP and NTK by the recursion of Jacot et al., a pair at a time."""
    both = {"xx": (x, x), "yy": (y, y), "xy": (x, y)}
    kernels = {
        name: float(one.flatten() @ other.flatten()) / one.numel()
        for name, (one, other) in both.items()
    }
    tangent = 0.0
    for _ in range(depth):
        kernels = {name: WEIGHT * each + BIAS for name, each in kernels.items()}
        after, slope = relu(kernels["xy"], kernels["xx"], kernels["yy"])
        tangent = (kernels["xy"] + WEIGHT * tangent) * slope
        kernels = {"xx": kernels["xx"] / 2, "yy": kernels["yy"] / 2, "xy": after}
    covariance = WEIGHT * kernels["xy"] + BIAS
    return covariance, covariance + WEIGHT * tangent


def convolved(pairs: Pairs) -> Pairs:
    """Return the mean over the nine shifts of both pixels together, 0 outside."""
    shifts = list(itertools.product((-1, 0, 1), repeat=2))
    return {
        (p, q): sum(
            pairs.get(((p[0] + a, p[1] + b), (q[0] + a, q[1] + b)), 0.0)
            for a, b in shifts
        )
        / 9
        for p, q in pairs
    }


def pooled(pairs: Pairs, height: int, width: int) -> Pairs:
    """Return the mean over the 4x4 pairs of two windows."""
    places = list(itertools.product(range(height // 2), range(width // 2)))
    window = list(itertools.product((0, 1), repeat=2))
    return {
        (p, q): sum(
            pairs[(2 * p[0] + a, 2 * p[1] + b), (2 * q[0] + c, 2 * q[1] + d)]
            for (a, b), (c, d) in itertools.product(window, window)
        )
        / 16
        for p, q in itertools.product(places, places)
    }


def convolutional(
    x: Tensor, y: Tensor, pools: list[bool], *, gap: bool
) -> tuple[float, float]:
    """Return NNGP and NTK from the covariances of all pairs of pixels."""
    height, width = x.shape[-2:]
    both = {"xx": (x, x), "yy": (y, y), "xy": (x, y)}
    places = list(itertools.product(range(height), range(width)))
    kernels: dict[str, Pairs] = {
        name: {
            (p, q): float((one[:, p[0], p[1]] * other[:, q[0], q[1]]).mean())
            for p, q in itertools.product(places, places)
        }
        for name, (one, other) in both.items()
    }
    tangents = {name: dict.fromkeys(kernels[name], 0.0) for name in PIXELS}
    for pool in pools:
        means = {name: convolved(kernels[name]) for name in PIXELS}
        kernels = {
            name: {pair: WEIGHT * each + BIAS for pair, each in means[name].items()}
            for name in PIXELS
        }
        before = {name: convolved(tangents[name]) for name in PIXELS}
        after: dict[str, Pairs] = {name: {} for name in PIXELS}
        for name in PIXELS:
            for (p, q), each in kernels[name].items():
                first = kernels[name[0] * 2][p, p]
                second = kernels[name[1] * 2][q, q]
                after[name][p, q], slope = relu(each, first, second)
                tangents[name][p, q] = slope * (each + WEIGHT * before[name][p, q])
        kernels = after
        if pool:
            kernels = {name: pooled(kernels[name], height, width) for name in PIXELS}
            tangents = {name: pooled(tangents[name], height, width) for name in PIXELS}
            height, width = height // 2, width // 2

    def read(pairs: Mapping[tuple[Any, Any], float]) -> float:
        seen = [each for (p, q), each in pairs.items() if gap or p == q]
        return sum(seen) / len(seen)

    covariance = WEIGHT * read(kernels["xy"]) + BIAS
    return covariance, covariance + WEIGHT * read(tangents["xy"])


def expected(one: Tensor, other: Tensor, reference: Any, arc: str) -> Tensor:
    rows = [[reference(x, y)[arc == "ntk"] for y in other] for x in one]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("arc", ["nngp", "ntk"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_fully_connected_kernels_are_those_of_the_recursion(
    depth: int, arc: Any
) -> None:
    one, other = images(3, 2, 3, 3), images(4, 2, 3, 3, seed=1)
    other[0] = one[1]  # a correlation of 1
    other[1] = -one[2]  # and of -1
    found = FullyConnected(depth=depth, arc=arc)(one, other)
    wanted = expected(one, other, lambda x, y: fully_connected(x, y, depth), arc)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("kernel", "pools", "shape"),
    [
        (Convolutional(depth=1), [False], (2, 4, 5)),
        (Convolutional(depth=3), [False] * 3, (1, 4, 4)),
        (Convolutional(depth=1, pooling=True), [True], (2, 5, 6)),
        (Convolutional(depth=2, pooling=True), [True] * 2, (1, 4, 6)),
        (Convolutional(depth=1, pooling=True, first=True), [False, True], (1, 4, 4)),
        (GlobalAverage(depth=2), [False] * 2, (2, 3, 4)),
        (GlobalAverage(depth=1, pooling=True), [True], (1, 4, 6)),
    ],
    ids=str,
)
def test_convolutional_kernels_are_those_of_all_pairs_of_pixels(
    kernel: Convolutional, pools: list[bool], shape: tuple[int, ...]
) -> None:
    one, other = images(2, *shape), images(2, *shape, seed=1)
    other[0] = one[1]
    gap = isinstance(kernel, GlobalAverage)
    rows = [[convolutional(x, y, pools, gap=gap) for y in other] for x in one]
    wanted = torch.tensor(rows, dtype=torch.float64)
    for place, arc in enumerate(("nngp", "ntk")):
        found = type(kernel)(**kernel.options() | {"arc": arc})(one, other)
        torch.testing.assert_close(found, wanted[..., place], rtol=0, atol=1e-10)


KERNELS: list[AbstractKernel] = [
    FullyConnected(depth=2),
    Convolutional(depth=2),
    Convolutional(depth=1, pooling=True),
    GlobalAverage(depth=1),
    FullyConnected(arc="nngp", weight_std=1.2, bias_std=0.0),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_gradients_are_those_of_the_kernel(kernel: AbstractKernel) -> None:
    one = images(2, 1, 4, 2).requires_grad_()
    other = images(3, 1, 4, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(kernel, (one, other))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_gradients_at_equal_images_are_finite_and_right(kernel: AbstractKernel) -> None:
    one = images(3, 1, 4, 2).requires_grad_()

    def trace(given: Tensor) -> Tensor:
        return kernel(given, given).diagonal().sum()

    assert torch.autograd.gradcheck(trace, (one,))
    whole = torch.autograd.grad(kernel(one, one).square().sum(), one)[0]
    assert torch.isfinite(whole).all()


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_kernel_is_symmetric_and_positive(kernel: AbstractKernel) -> None:
    found = kernel(images(6, 2, 4, 4), images(6, 2, 4, 4))
    torch.testing.assert_close(found, found.T, rtol=0, atol=1e-12)
    assert float(torch.linalg.eigvalsh(found)[0]) > 0


def test_a_wide_network_has_the_covariance_of_the_nngp() -> None:
    one = images(4, 1, 3, 3)
    torch.manual_seed(0)
    products = torch.zeros(4, 4, dtype=torch.float64)
    width, draws = 256, 300
    for _ in range(draws):
        hidden = one.flatten(1)
        for inputs, outputs in ((9, width), (width, width)):
            weights = torch.randn(inputs, outputs, dtype=torch.float64)
            bias = math.sqrt(BIAS) * torch.randn(outputs, dtype=torch.float64)
            hidden = hidden @ weights * math.sqrt(WEIGHT / inputs) + bias
            output, hidden = hidden, hidden.relu()
        products += output @ output.T / width / draws
    wanted = FullyConnected(depth=1, arc="nngp")(one, one)
    torch.testing.assert_close(products, wanted, rtol=0.05, atol=0.02)


def test_images_that_poolings_leave_nothing_of_are_refused() -> None:
    Convolutional(depth=3, pooling=True).check(8, 9)
    with pytest.raises(OptionError, match="at least 8 pixels a side, got 7x9"):
        Convolutional(depth=3, pooling=True).check(7, 9)
    Convolutional(depth=3).check(1, 1)
