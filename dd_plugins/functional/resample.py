"""Bilinear resampling with a reproducible gradient, on CUDA too.

On CUDA, torch's gradients of ``grid_sample`` and of a bilinear ``interpolate`` add up
the contributions of several output pixels to an input pixel in the order of arriving
threads, so their last bits differ from run to run. Here the contributions are rounded
to integers first, so their sum does not depend on the order.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Padding", "resample", "resize"]

Padding = Literal["border", "zeros"]

_BITS = 50  # of the largest sum: a float64 holds every integer up to 2**53
_VALUES = 2**24  # parts of samples in memory at once, a float64 and an int64 for each


def resample(images: Tensor, grid: Tensor, padding: Padding) -> Tensor:
    """Sample images bilinearly at the points of a grid, as ``F.grid_sample`` does.

    Args:
        images: float of shape ``(n, channels, height, width)``.
        grid: float of shape ``(n, rows, columns, 2)``: points ``(x, y)`` in units of
            half a side, from the centre; -1 and 1 are the edges of the image
            (``align_corners=False``). It takes no gradient.
        padding: pixels outside the image: the edge repeated, or zeros.

    Returns:
        Images of shape ``(n, channels, rows, columns)``, differentiable any number of
        times.
    """
    if images.device.type != "cuda":
        return _sampled(images, grid, padding)
    sampled: Tensor = _Sample.apply(images, grid, padding)
    return sampled


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images bilinearly, as ``F.interpolate`` does (``align_corners=False``).

    Args:
        images: float of shape ``(n, channels, height, width)``.
        size: the new height and width.

    Returns:
        Images of the new size, differentiable any number of times.
    """
    if images.device.type != "cuda":
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    grid = _even_grid(size).to(images)
    return resample(images, grid.expand(len(images), -1, -1, -1), "border")


def _even_grid(size: tuple[int, int]) -> Tensor:
    """Return the centres of an image's pixels, float64 ``(height, width, 2)``."""
    rows, columns = (
        (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1 for side in size
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1)


def _sampled(images: Tensor, grid: Tensor, padding: Padding) -> Tensor:
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


class _Sample(torch.autograd.Function):
    """Sampling, linear in the images."""

    @staticmethod
    def forward(images: Tensor, grid: Tensor, padding: Padding) -> Tensor:
        return _sampled(images, grid, padding)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Padding], output: Tensor
    ) -> None:
        """Keep where the samples were taken."""
        images, grid, ctx.padding = inputs
        ctx.size = (images.shape[-2], images.shape[-1])
        ctx.save_for_backward(grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Spread.apply(gradient, grid, ctx.padding, ctx.size), None, None


class _Spread(torch.autograd.Function):
    """The adjoint of sampling: adds each sample to the pixels it was taken from."""

    @staticmethod
    def forward(
        samples: Tensor, grid: Tensor, padding: Padding, size: tuple[int, int]
    ) -> Tensor:
        corners = 4 * samples.shape[2:].numel()  # of an image
        images = max(1, _VALUES // (corners * samples.shape[1]))
        pieces = [
            (some, *_corners(points, padding, size))
            for some, points in zip(
                torch.split(samples, images), torch.split(grid, images), strict=True
            )
        ]
        largest = torch.stack([_largest(some, weights) for some, weights, _ in pieces])
        largest = largest.amax().clamp(min=torch.finfo(torch.float64).tiny)
        # A gradient that is not finite makes the unit, and so the result, not finite.
        unit = largest * (corners / 2.0**_BITS)
        return torch.cat([_sums(*piece, size, unit) for piece in pieces])

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, Padding, tuple[int, int]],
        output: Tensor,
    ) -> None:
        """Keep where the samples were taken."""
        _, grid, ctx.padding, _ = inputs
        ctx.save_for_backward(grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(gradient, grid, ctx.padding), None, None, None


def _corners(
    grid: Tensor, padding: Padding, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the weights and indices of the four pixels around each point.

    Returns:
        The weights, float ``(n, rows, columns, 4)``, and int64 of the same shape: the
        indices of the pixels in a flat image.
    """
    height, width = size
    sides = grid.new_tensor([width, height])
    points = ((grid + 1) * sides - 1) / 2
    if padding == "border":
        points = points.clamp(min=torch.zeros_like(sides), max=sides - 1)
    steps = grid.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    corners = points.floor().unsqueeze(-2) + steps
    inside = ((corners >= 0) & (corners < sides)).all(dim=-1)
    weights = (1 - (points.unsqueeze(-2) - corners).abs()).prod(dim=-1) * inside
    column, row = (corners * inside.unsqueeze(-1)).long().unbind(dim=-1)
    return weights, row * width + column


def _largest(samples: Tensor, weights: Tensor) -> Tensor:
    """Return the largest absolute value of a part of a sample, float64."""
    of_channels = samples.abs().amax(dim=1).double().unsqueeze(-1)
    return (of_channels * weights.double()).amax()


def _sums(
    samples: Tensor,
    weights: Tensor,
    indices: Tensor,
    size: tuple[int, int],
    unit: Tensor,
) -> Tensor:
    """Return the sums of the parts of samples at each pixel, rounded to units."""
    height, width = size
    parts = samples.double().unsqueeze(-1) * weights.double().unsqueeze(1)
    sums = torch.zeros(
        *samples.shape[:2], height * width, dtype=torch.int64, device=samples.device
    )
    sums.scatter_add_(
        2,
        indices.flatten(1).unsqueeze(1).expand(-1, samples.shape[1], -1),
        (parts / unit).round().long().flatten(2),
    )
    spread = sums.double() * unit
    return spread.view(*samples.shape[:2], height, width).to(samples.dtype)
