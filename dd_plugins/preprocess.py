"""Standardisation and ZCA whitening: invertible, and saved inside every artifact."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugins.errors import DataError
from dd_plugins.streamed import ImageSource, chunks

__all__ = ["ZCA_RIDGE", "Preprocessing", "Transform", "to_unit_range"]

Preprocessing = Literal["standardize", "zca"]

ZCA_RIDGE = 0.1
"""Ridge on the covariance, relative to its mean eigenvalue (FRePo's ``zca_reg``)."""

_LARGEST_WHITENED_SIDE = 64  # beyond it the covariance would not fit; see Transform
_CHUNK = 2048  # images that are whitened or summed up at a time


def to_unit_range(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]; uint8 is divided by 255."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


@dataclass(frozen=True, eq=False)
class Transform:
    """An invertible map from images in [0, 1] to the value space of a model.

    Standardisation by channel and, with ``whitening``, ZCA after it. Images larger than
    64 pixels are whitened in interleaved sub-images ("checkerboard"): every
    ``stride``-th pixel belongs to the same sub-image, and all share one covariance.

    Attributes:
        mean: float32 of shape ``(channels,)``.
        deviation: float32 of shape ``(channels,)``.
        centre: mean of the flattened standardised sub-images, float32 of shape
            ``(d,)``.
        whitening: symmetric ZCA matrix, float32 of shape ``(d, d)``.
        stride: how many interleaved sub-images there are along each side.

    Reference: FRePo's released code (arXiv 2206.00719, appendix A.1).
    """

    mean: Tensor
    deviation: Tensor
    centre: Tensor | None = None
    whitening: Tensor | None = None
    stride: int = 1

    def to(self, device: torch.device) -> "Transform":
        """Return the same map, computed on a device, wherever the images are."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return Transform.from_tensors(moved, self.stride)

    @property
    def kind(self) -> Preprocessing:
        """``"zca"`` if images are whitened, else ``"standardize"``."""
        return "standardize" if self.whitening is None else "zca"

    @classmethod
    def fit(cls, images: ImageSource, kind: Preprocessing) -> "Transform":
        """Learn the transform from training images.

        Args:
            images: uint8, or float in [0, 1], of shape ``(n, channels, height,
                width)``.
            kind: ``"standardize"``, or ``"zca"`` for whitening after it.

        Raises:
            DataError: ``kind`` is ``"zca"``, and the images are all alike, or the sides
                of large ones not divisible into sub-images of at most 64 pixels.
        """
        channels = images.shape[1]
        total = torch.zeros(channels, dtype=torch.float64)
        squares = torch.zeros(channels, dtype=torch.float64)
        for chunk in chunks(images, _CHUNK):
            values = to_unit_range(chunk).double()
            total += values.sum(dim=(0, 2, 3)).cpu()
            squares += values.square().sum(dim=(0, 2, 3)).cpu()
        count = images.numel() / channels
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        deviation[deviation < 1e-6] = 1.0  # a constant channel stays constant
        standardize = cls(mean.float(), deviation.float())
        if kind == "standardize":
            return standardize
        return standardize._with_whitening(images)

    def _with_whitening(self, images: ImageSource) -> "Transform":
        """Return the transform that also whitens, fitted on ``images``."""
        stride = _stride(images.shape[-2], images.shape[-1])
        scale = Transform(self.mean, self.deviation, stride=stride)
        size = math.prod(images.shape[1:]) // stride**2
        count = len(images) * stride**2
        centre = torch.zeros(size, dtype=torch.float64)
        for chunk in chunks(images, _CHUNK):
            centre += (
                scale._flatten(scale._standardize(chunk)).double().sum(dim=0).cpu()
            )
        centre = (centre / count).float()
        covariance = torch.zeros(size, size, dtype=torch.float64)
        for chunk in chunks(images, _CHUNK):
            flat = scale._flatten(scale._standardize(chunk)).cpu() - centre
            covariance += (flat.mT @ flat).double()
        covariance /= count
        if not covariance.diagonal().sum() > 0:
            raise DataError("ZCA of images that are all alike; use 'standardize'")
        covariance.diagonal().add_(ZCA_RIDGE * covariance.diagonal().mean())
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        if count <= size:
            # Directions without data keep scale 1, as in the released code; centred
            # images span one direction less than there are images (overlooked there).
            eigenvalues[: size - count + 1] = 1.0
        whitening = (vectors * eigenvalues.rsqrt()) @ vectors.mT
        return Transform(self.mean, self.deviation, centre, whitening.float(), stride)

    def __call__(self, images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map images to the value space.

        Args:
            images: uint8, or float in [0, 1], of shape ``(n, channels, height,
                width)``.
            dtype: to which the result is rounded; everything is computed in float32,
                on the device of the map's own tensors.

        Returns:
            The values, of the same shape, on the device of the images.
        """
        result = torch.empty(images.shape, dtype=dtype, device=images.device)
        for start in range(0, len(images), _CHUNK):
            near = images[start : start + _CHUNK].to(self.mean.device)
            chunk = self._standardize(near)
            if self.centre is not None and self.whitening is not None:
                flat = (self._flatten(chunk) - self.centre) @ self.whitening
                chunk = self._unflatten(flat, images.shape)
            result[start : start + _CHUNK] = chunk
        return result

    def invert(self, values: Tensor) -> Tensor:
        """Map from the value space back to images; nothing is clipped.

        Args:
            values: float of shape ``(n, channels, height, width)``.

        Returns:
            float32 images, in [0, 1] where the values came from such images.
        """
        if self.whitening is not None and self.centre is not None:
            flat = self._flatten(values.float())
            # The ridge bounds the condition of the matrix: 175 at most for CIFAR.
            solved = torch.linalg.solve(self._whitening64, flat.cpu().double().mT).mT
            flat = solved.float().to(values.device) + self.centre.to(values.device)
            values = self._unflatten(flat, values.shape)
        mean, deviation = self._by_channel(values.device)
        return values.float() * deviation + mean

    @cached_property
    def _whitening64(self) -> Tensor:
        assert self.whitening is not None
        return self.whitening.cpu().double()

    def _by_channel(self, device: torch.device) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1)
        return self.mean.to(device).view(shape), self.deviation.to(device).view(shape)

    def _standardize(self, images: Tensor) -> Tensor:
        mean, deviation = self._by_channel(images.device)
        return (to_unit_range(images) - mean) / deviation

    def _flatten(self, images: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n * stride**2, d)``: one row for each sub-image."""
        if self.stride == 1:
            return images.flatten(1)
        n, channels, height, width = images.shape
        folded = F.pixel_unshuffle(images, self.stride)
        small = (height // self.stride, width // self.stride)
        split = folded.view(n, channels, self.stride**2, *small)
        return split.transpose(1, 2).reshape(n * self.stride**2, -1)

    def _unflatten(self, flat: Tensor, shape: torch.Size) -> Tensor:
        """Undo :meth:`_flatten`; ``shape[1:]`` is the shape of one image."""
        _, channels, height, width = shape
        if self.stride == 1:
            return flat.view(-1, channels, height, width)
        small = (height // self.stride, width // self.stride)
        split = flat.view(-1, self.stride**2, channels, *small).transpose(1, 2)
        folded = split.reshape(-1, channels * self.stride**2, *small)
        return F.pixel_shuffle(folded, self.stride)

    @cached_property
    def fingerprint(self) -> str:
        """Return a SHA-256 over its tensors and stride, in hexadecimal."""
        digest = hashlib.sha256(str(self.stride).encode())
        for name, tensor in self.tensors().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that :meth:`from_tensors` needs, by name."""
        named = {"mean": self.mean, "deviation": self.deviation}
        if self.centre is not None and self.whitening is not None:
            named |= {"centre": self.centre, "whitening": self.whitening}
        return named

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], stride: int) -> "Transform":
        """Rebuild a transform from :meth:`tensors` and its stride."""
        return cls(
            tensors["mean"],
            tensors["deviation"],
            tensors.get("centre"),
            tensors.get("whitening"),
            stride,
        )


def _stride(height: int, width: int) -> int:
    """Return the fewest interleaved sub-images a side that are at most 64 pixels."""
    stride = math.ceil(max(height, width) / _LARGEST_WHITENED_SIDE)
    if height % stride or width % stride:
        raise DataError(
            f"ZCA of {height}x{width} images needs sides divisible by {stride}; resize "
            "the images, or use preprocessing 'standardize'"
        )
    return stride
