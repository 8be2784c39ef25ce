"""Kernels of infinitely wide networks: neural tangent and Gaussian process kernels.

A network of infinite width with random weights is a Gaussian process. Its covariance
(NNGP) follows by a recursion over the layers. Trained by gradient descent, the network
predicts like kernel regression with its tangent kernel (NTK). A kernel has no weights:
it is a function of two images.

Every affine layer, the last included, multiplies a covariance by ``weight_std**2`` and
adds ``bias_std**2`` (the parametrization of Neural Tangents).

References: Jacot, Gabriel, Hongler, "Neural Tangent Kernel", NeurIPS 2018, arXiv
1806.07572; Arora et al., "On Exact Computation with an Infinitely Wide Neural Net",
NeurIPS 2019, arXiv 1904.11955 (convolution and pooling); Novak et al., "Neural
Tangents", ICLR 2020, arXiv 1912.02803.
"""

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from dd_plugins.errors import OptionError
from dd_plugins.spec import Record, record

__all__ = [
    "KERNELS",
    "AbstractKernel",
    "Arc",
    "Convolutional",
    "FullyConnected",
    "GlobalAverage",
]

Arc = Literal["ntk", "nngp"]
"""Which kernel: that of training by gradient descent, or of the random network."""

_NEAR_ONE = 1e-14  # inputs count as equal if their correlation is closer to 1
_KEPT = 26  # tensors of a layer kept for the gradient, measured


@record
class AbstractKernel(Record, ABC):
    """A function of two images: the kernel of an infinitely wide network with ReLU.

    Args:
        arc: ``"ntk"``, the kernel of training by gradient descent, or ``"nngp"``, the
            kernel of the random network.
        weight_std: standard deviation of a layer's weights, times the root of the
            number of its inputs (W_std).
        bias_std: standard deviation of the biases (b_std).
    """

    arc: Arc = "ntk"
    weight_std: PositiveFloat = math.sqrt(2)
    bias_std: NonNegativeFloat = 0.1

    @abstractmethod
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the kernel of every pair of images.

        Args:
            first: floating, of shape ``(n, channels, height, width)``.
            second: of shape ``(m, channels, height, width)``.

        Returns:
            Shape ``(n, m)``, of the same dtype; differentiable.
        """

    @abstractmethod
    def bytes_per_pair(self, height: int, width: int) -> int:
        """Return about how many bytes a pair needs in float64, with gradients."""

    def check(self, height: int, width: int) -> None:
        """Refuse images of a size unfit for the network.

        Raises:
            OptionError: the images are too small.
        """
        del height, width

    def affine(self, covariance: Tensor) -> Tensor:
        """Return a covariance after an affine layer."""
        return self.weight_std**2 * covariance + self.bias_std**2

    def output(self, covariance: Tensor, tangent: Tensor) -> Tensor:
        """Return the kernel after the linear output layer."""
        covariance = self.affine(covariance)
        if self.arc == "nngp":
            return covariance
        return covariance + self.weight_std**2 * tangent


@record
class FullyConnected(AbstractKernel):
    """The kernel of a fully connected network with a linear output.

    Args:
        depth: number of hidden layers.
    """

    name = "fc"

    depth: PositiveInt = 1

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the kernel of every pair of images, ``(n, m)``."""
        first, second = first.flatten(1), second.flatten(1)
        size = first.shape[1]
        covariance = first @ second.T / size
        own = first.square().sum(dim=1, keepdim=True) / size
        other = second.square().sum(dim=1)[None] / size
        tangent = torch.zeros_like(covariance)
        for _ in range(self.depth):
            covariance, own, other = map(self.affine, (covariance, own, other))
            tangent = covariance + self.weight_std**2 * tangent
            covariance, slope = _relu(covariance, own, other)
            tangent = tangent * slope
            own, other = own / 2, other / 2
        return self.output(covariance, tangent)

    def bytes_per_pair(self, height: int, width: int) -> int:
        """Return about how many bytes two images need in float64, with gradients."""
        del height, width
        return 8 * _KEPT * self.depth


@record
class Convolutional(AbstractKernel):
    """The kernel of 3x3 convolutions, each with ReLU, and a linear output.

    The covariance of pixel p of one image and p' of the other is stored by the offset
    o = p' - p. A convolution never mixes offsets: it filters each by an ordinary 3x3
    filter. Only pooling mixes them. So without pooling the offset 0 is enough: height
    times width numbers for a pair of images. With d poolings the offsets below 2**d are
    needed.

    Args:
        depth: number of convolutions, each of which a pooling may follow.
        pooling: whether average pooling of 2x2 follows each of these convolutions.
        first: whether one more convolution, without pooling, comes first: the paper's
            ``ConvNet`` is ``conv(depth=3, pooling=True, first=True)``.
    """

    name = "conv"

    depth: PositiveInt = 3
    pooling: bool = False
    first: bool = False

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the kernel of every pair of images, ``(n, m)``."""
        reach = self.reach(*first.shape[-2:])
        own, other = (_OfPairs.of(each, each, reach) for each in (first, second))
        pairs = _OfPairs.of(first[:, None], second[None], reach)
        plain = [False] if self.first else []
        for pools in [*plain, *[self.pooling] * self.depth]:
            own, other, pairs = (each.convolved(self) for each in (own, other, pairs))
            variances, others = own.variances(), other.variances()
            pairs = pairs.rectified(variances[:, None], others[None])
            own = own.rectified(variances, variances)
            other = other.rectified(others, others)
            if pools:
                own, other, pairs = (each.pooled() for each in (own, other, pairs))
        return self.output(*self._mean(pairs))

    def _mean(self, pairs: "_OfPairs") -> tuple[Tensor, Tensor]:
        """Return the input of the output layer: the mean over equal pixels."""
        return pairs.mean_of_equal()

    def reach(self, height: int, width: int) -> int:
        """Return the longest offset along a side needed by images of this size."""
        del height, width
        return int(2**self.depth) - 1 if self.pooling else 0

    def check(self, height: int, width: int) -> None:
        """Refuse images too small for the poolings."""
        if self.pooling and min(height, width) < 2**self.depth:
            raise OptionError(
                f"{self!r}: {self.depth} poolings need images of at least "
                f"{2**self.depth} pixels a side, got {height}x{width}"
            )

    def bytes_per_pair(self, height: int, width: int) -> int:
        """Return about how many bytes two images need in float64, with gradients."""
        layers = (self.depth + self.first) if not self.pooling else 1 + self.first
        values = (2 * self.reach(height, width) + 1) ** 2 * height * width
        return 8 * _KEPT * layers * values


@record
class GlobalAverage(Convolutional):
    """The kernel of 3x3 convolutions with global average pooling before the output.

    It is the costliest kernel, for it needs all pairs of pixels. By offset they are
    ``(2 * side - 1)**2 * height * width`` numbers for a pair of images, where side is
    the longer one; three quarters of them are 0, for pixels outside the image.
    """

    name = "gap"

    def _mean(self, pairs: "_OfPairs") -> tuple[Tensor, Tensor]:
        """Return the input of the output layer: the mean over all pairs of pixels."""
        return pairs.mean_of_all()

    def reach(self, height: int, width: int) -> int:
        """Return the longest offset along a side: between opposite edges."""
        last = max(height, width)
        if not self.pooling:
            return last - 1
        window = int(2**self.depth)
        return last // window * window - 1


KERNELS = (FullyConnected, Convolutional, GlobalAverage)
"""The kernels with a spec."""


@dataclass(frozen=True)
class _OfPairs:
    """Covariances of pixels of pairs of images, by offset.

    Attributes:
        covariance: of shape ``(..., 2 * reach + 1, 2 * reach + 1, height, width)``: at
            ``[..., reach + dy, reach + dx, y, x]`` the covariance of pixel (y, x) of
            the first image and (y + dy, x + dx) of the second; 0 outside the image.
        tangent: the tangent kernel so far, likewise.
        reach: the longest offset along a side.
    """

    covariance: Tensor
    tangent: Tensor
    reach: int

    @classmethod
    def of(cls, first: Tensor, second: Tensor, reach: int) -> "_OfPairs":
        """Return the covariances of images: means over the channels of products."""
        shifted = _shifted(second, reach)  # (..., channels, offsets, offsets, h, w)
        covariance = (first[..., None, None, :, :] * shifted).mean(dim=-5)
        return cls(covariance, torch.zeros_like(covariance), reach)

    def convolved(self, layer: AbstractKernel) -> "_OfPairs":
        """Return the covariances after a 3x3 convolution."""
        inside = _inside(self.covariance, self.reach)
        covariance = layer.affine(_filtered(self.covariance)) * inside
        weight = layer.weight_std**2
        tangent = covariance + weight * _filtered(self.tangent) * inside
        return _OfPairs(covariance, tangent, self.reach)

    def variances(self) -> Tensor:
        """Return the variance of each pixel, if each image is paired with itself."""
        return self.covariance[..., self.reach, self.reach, :, :]

    def rectified(self, first: Tensor, second: Tensor) -> "_OfPairs":
        """Return the covariances after a ReLU.

        Args:
            first: variances of the pixels of the first images, ``(..., h, w)``.
            second: variances of the pixels of the second images, likewise.
        """
        others = _shifted(second[..., None, :, :], self.reach)[..., 0, :, :, :, :]
        inside = _inside(self.covariance, self.reach)
        # Outside the image the variance is set to 1: a variance of 0 has no angle.
        covariance, slope = _relu(
            self.covariance, first[..., None, None, :, :], others + (1 - inside)
        )
        return _OfPairs(covariance * inside, self.tangent * slope, self.reach)

    def pooled(self) -> "_OfPairs":
        """Return the covariances after average pooling of 2x2."""
        reach = (self.reach - 1) // 2
        offsets = 2 * torch.arange(-reach, reach + 1, device=self.covariance.device)
        covariance = _pooled(self.covariance, offsets + self.reach)
        tangent = _pooled(self.tangent, offsets + self.reach)
        # The last row of an odd side has no window, though earlier rows pair with it.
        inside = _inside(covariance, reach)
        return _OfPairs(covariance * inside, tangent * inside, reach)

    def mean_of_equal(self) -> tuple[Tensor, Tensor]:
        """Return the means of covariance and tangent over pairs of equal pixels."""
        middle = (..., self.reach, self.reach, slice(None), slice(None))
        covariance, tangent = self.covariance[middle], self.tangent[middle]
        return covariance.mean((-2, -1)), tangent.mean((-2, -1))

    def mean_of_all(self) -> tuple[Tensor, Tensor]:
        """Return the means of covariance and tangent over all pairs of pixels."""
        *_, height, width = self.covariance.shape
        size, last = (height * width) ** 2, (-4, -3, -2, -1)
        return self.covariance.sum(last) / size, self.tangent.sum(last) / size


def _relu(covariance: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the covariance after a ReLU, and the covariance of its derivative.

    Args:
        covariance: covariance of two inputs.
        first: variance of the first input; it broadcasts.
        second: variance of the second input, likewise.

    Reference: Cho, Saul, "Kernel Methods for Deep Learning", NeurIPS 2009: the
    arc-cosine kernels of degree 1 and 0.
    """
    product = first * second
    positive = product > 0  # false where an input is zero, without a bias
    root = torch.where(positive, product, 1).sqrt()
    scale = torch.where(positive, root, 0)
    correlation = torch.where(positive, covariance / root, 0).clamp(-1, 1)
    # At 1 the derivative of acos is infinite, but that of the result is finite. Equal
    # inputs stay equal, so no gradient passes through their angle.
    equal = correlation >= 1 - _NEAR_ONE
    inner = torch.where(equal, 0, correlation)
    angle = torch.where(equal, 0, inner.acos())
    sine = torch.where(equal, 0, (1 - inner.square()).sqrt())
    cosine = torch.where(equal, 1, inner)
    after = scale / (2 * math.pi) * (sine + (math.pi - angle) * cosine)
    return after, (math.pi - angle) / (2 * math.pi)


def _filtered(covariance: Tensor) -> Tensor:
    """Return the mean of each 3x3 neighbourhood, with 0 outside the image."""
    height, width = covariance.shape[-2:]
    flat = covariance.reshape(-1, 1, height, width)
    return F.avg_pool2d(flat, 3, stride=1, padding=1).view_as(covariance)


def _shifted(images: Tensor, reach: int) -> Tensor:
    """Return images at every offset: ``(..., offsets, offsets, height, width)``.

    At ``[..., reach + dy, reach + dx, y, x]`` is the value at (y + dy, x + dx), or 0
    outside the image.
    """
    padded = F.pad(images, (reach,) * 4)
    height, width = images.shape[-2:]
    # Windows of the size of the image, one for each offset.
    return padded.unfold(-2, height, 1).unfold(-2, width, 1)


def _inside(covariance: Tensor, reach: int) -> Tensor:
    """Return 1 where both pixels of a pair are in their images, else 0."""
    ones = covariance.new_ones(covariance.shape[-2:])
    return _shifted(ones, reach)


def _pooled(covariance: Tensor, offsets: Tensor) -> Tensor:
    """Return the means over the 4x4 pairs of pixels of two 2x2 windows.

    Args:
        covariance: covariances by offset.
        offsets: the index, in ``covariance``, of twice each new offset.
    """
    height, width = (side // 2 * 2 for side in covariance.shape[-2:])
    whole = covariance[..., :height, :width]
    parts = []
    for row, column in itertools.product((0, 1), repeat=2):
        of_first = whole[..., row::2, column::2]
        for other_row, other_column in itertools.product((0, 1), repeat=2):
            rows = of_first.index_select(-4, offsets + other_row - row)
            parts.append(rows.index_select(-3, offsets + other_column - column))
    return torch.stack(parts).mean(dim=0)
