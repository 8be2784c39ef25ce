"""Standardisation and ZCA whitening: invertible, and saved inside every artifact."""

import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugins.data.spaces import Preprocessing
from dd_plugins.data.streamed import ImageSource, chunks, length_of_chunks
from dd_plugins.data.whitening import CompactMatrix, stride_of
from dd_plugins.errors import DataError, DDWarning
from dd_plugins.runtime.memory import fits_in_memory

__all__ = ["ZCA_RIDGE", "Preprocessing", "Transform", "to_unit_range"]

ZCA_RIDGE = 0.1
"""Ridge on the covariance, relative to its mean eigenvalue (FRePo's ``zca_reg``)."""

_PIXEL_RIDGE = 0.1  # on the covariance of pixels in [0, 1] (MTT's)

_COMPACT = 512  # a whitening matrix of more rows is kept compact
_LONG_TO_WHITEN = 4_000  # rows and columns of a matrix that is decomposed
_LEAST_EIGENVALUE = 1e-10  # relative to the largest; smaller ones are rounding
_CHUNK = 2048  # images whitened or summed at a time, at most


def to_unit_range(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]; uint8 is divided by 255."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


@dataclass(frozen=True, eq=False)
class Transform:
    """An invertible map from images in [0, 1] to the value space of a model.

    It standardises each channel and, with ``whitening``, applies ZCA to the result; or
    it applies ZCA to pixels without standardisation. Images with a side of more than 64
    pixels are whitened in interleaved sub-images ("checkerboard"): every ``stride``-th
    pixel belongs to the same sub-image, and all sub-images share one covariance. A
    whitening matrix of more than 512 rows is rounded to a compact form when it is
    fitted, so a set and the matrix fit in one small file. For CIFAR-10, images whitened
    by it differ by at most 7 % from those of the exact matrix.

    Attributes:
        mean: float32 of shape ``(channels,)``.
        deviation: the standard deviation, float32 of shape ``(channels,)``.
        centre: mean of the flattened standardised sub-images, float32 of shape
            ``(d,)``.
        whitening: symmetric ZCA matrix, float32 of shape ``(d, d)``; None if
            ``directions`` and ``scales`` take its place.
        compact: the same matrix in compact form; None if it is kept whole.
        directions: if there are at most as many sub-images as values in one, the
            orthonormal directions spanned by their differences, float32 of shape
            ``(r, d)``. In all other directions the matrix is the identity.
        scales: the factor for each direction, float32 of shape ``(r,)``.
        stride: the number of interleaved sub-images along each side.

    Reference: FRePo's released code (arXiv 2206.00719, appendix A.1).
    """

    mean: Tensor
    deviation: Tensor
    centre: Tensor | None = None
    whitening: Tensor | None = None
    stride: int = 1
    directions: Tensor | None = None
    scales: Tensor | None = None
    compact: CompactMatrix | None = None

    def to(self, device: torch.device) -> "Transform":
        """Return the same map, computed on a device, for images on any device."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in own.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    @classmethod
    def identity(cls, channels: int) -> "Transform":
        """Return the transform for images already in the value space."""
        return cls(torch.zeros(channels), torch.ones(channels))

    @property
    def is_identity(self) -> bool:
        """Whether images are in the value space already."""
        if self.centre is not None:
            return False
        return bool((self.mean == 0).all() and (self.deviation == 1).all())

    @property
    def kind(self) -> Preprocessing:
        """The kind of its value space."""
        if self.centre is None:
            return "constant" if _scale_alike(self, _constant(1)) else "standardize"
        return "pixel-zca" if _scale_alike(self, _of_pixels(1)) else "zca"

    @classmethod
    def fit(cls, images: ImageSource, kind: Preprocessing) -> "Transform":
        """Learn the transform from training images.

        Args:
            images: uint8, or float in [0, 1], of shape ``(n, channels, height,
                width)``.
            kind: ``"standardize"``; ``"zca"`` for whitening after it, with a ridge
                relative to the mean eigenvalue; ``"pixel-zca"`` for whitening of pixels
                in [0, 1], with the ridge 0.1: the space of MTT, TESLA and DATM;
                ``"constant"`` for [-1, 1], fitted to no image.

        Raises:
            DataError: images to be whitened are all alike, are too large for the
                memory, or do not divide into sub-images of at most 64 pixels a side.
        """
        channels = images.shape[1]
        if kind == "constant":
            return _constant(channels)
        if kind == "pixel-zca":
            return _of_pixels(channels)._with_whitening(images, ridge=1.0)
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
        return standardize._with_whitening(images, ridge=None)

    def _with_whitening(
        self, images: ImageSource, *, ridge: float | None
    ) -> "Transform":
        """Return the transform with whitening, fitted on ``images``.

        Args:
            images: training images.
            ridge: a number added to the diagonal of the covariance; None for
                ``ZCA_RIDGE`` times its mean eigenvalue.
        """
        height, width = images.shape[2:]
        stride = stride_of(height, width)
        if height % stride or width % stride:
            raise DataError(
                f"ZCA of {height}x{width} images needs sides divisible by {stride}; "
                "resize the images, or use preprocessing 'standardize'"
            )
        scale = Transform(self.mean, self.deviation, stride=stride)
        size = math.prod(images.shape[1:]) // stride**2
        count = len(images) * stride**2
        needed = 3 * 8 * size * min(size, count)  # three float64 copies of either
        if not fits_in_memory(needed):
            raise DataError(
                f"whitening must fit in half of the memory, got images of {size} "
                f"values, for which it takes {needed / 1e9:.0f} GB; make them smaller, "
                "or use preprocessing 'standardize'"
            )
        if min(size, count) > _LONG_TO_WHITEN:
            warnings.warn(
                f"whitening is fitted to {len(images):,} images of {size:,} values: "
                "this takes minutes",
                DDWarning,
                stacklevel=3,
            )
        centre = torch.zeros(size, dtype=torch.float64)
        for chunk in chunks(images, _CHUNK):
            centre += scale._flatten(scale.standardize(chunk)).double().sum(dim=0).cpu()
        centre = (centre / count).float()
        if count <= size:
            return _along_directions(images, scale, centre, count, ridge)
        covariance = torch.zeros(size, size, dtype=torch.float64)
        for chunk in chunks(images, _CHUNK):
            flat = scale._flatten(scale.standardize(chunk)).cpu() - centre
            covariance += (flat.mT @ flat).double()
        covariance /= count
        if not covariance.diagonal().sum() > 0:
            raise _all_alike()
        if ridge is None:
            ridge = ZCA_RIDGE * float(covariance.diagonal().mean())
        covariance.diagonal().add_(ridge)
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        whitening = (vectors * eigenvalues.rsqrt()) @ vectors.mT
        compact = None
        if size > _COMPACT:
            channels, height, width = images.shape[1:]
            shape = (channels, height // stride, width // stride)
            compact = CompactMatrix.of(whitening, covariance, shape)
            whitening = compact.matrix()
        return Transform(
            self.mean,
            self.deviation,
            centre,
            whitening.float(),
            stride,
            compact=compact,
        )

    def __call__(self, images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map images to the value space.

        Args:
            images: uint8, or float in [0, 1], of shape ``(n, channels, height,
                width)``.
            dtype: the dtype of the result; everything is computed in float32, on the
                device of the map's own tensors.

        Returns:
            The values, of the same shape, on the device of the images.
        """
        result = torch.empty(images.shape, dtype=dtype, device=images.device)
        size = length_of_chunks(images.shape, _CHUNK)
        for start in range(0, len(images), size):
            near = images[start : start + size].to(self.mean.device)
            chunk = self.from_standardised(self.standardize(near))
            result[start : start + size] = chunk
        return result

    def invert(self, values: Tensor) -> Tensor:
        """Map from the value space back to images; nothing is clipped.

        Args:
            values: float of shape ``(n, channels, height, width)``.

        Returns:
            float32 images, in [0, 1] where the values came from such images.
        """
        if self.centre is not None:
            flat = self._flatten(values.float())
            flat = self._unwhiten(flat.cpu().double()).float().to(values.device)
            flat = flat + self.centre.to(values.device)
            values = self._unflatten(flat, values.shape)
        mean, deviation = self._by_channel(values.device)
        return values.float() * deviation + mean

    def standardize(self, images: Tensor) -> Tensor:
        """Return images standardised by channel, before any whitening.

        Args:
            images: uint8, or float in [0, 1], of shape ``(n, channels, height,
                width)``.
        """
        mean, deviation = self._by_channel(images.device)
        return (to_unit_range(images) - mean) / deviation

    def to_standardised(self, values: Tensor) -> Tensor:
        """Map values back to standardised pixels, with any whitening undone.

        In the space ``"pixel-zca"``, pixels are divided by the square root of the ridge
        instead.

        Args:
            values: float of shape ``(n, channels, height, width)``, in this space.
        """
        mean, deviation = self._by_channel(values.device)
        return (self.invert(values) - mean) / deviation

    def from_standardised(self, standardised: Tensor) -> Tensor:
        """Map standardised pixels to the value space.

        Gradients flow through the map.

        Args:
            standardised: standardised pixels, float32 of shape
                ``(n, channels, height, width)``, on the device of this map's tensors.
        """
        if self.centre is None:
            return standardised
        flat = self._whiten(self._flatten(standardised) - self.centre)
        return self._unflatten(flat, standardised.shape)

    def _whiten(self, flat: Tensor) -> Tensor:
        """Return rows of standardised, centred sub-images in the whitened space."""
        if self.whitening is not None:
            return flat @ self.whitening
        assert self.directions is not None
        assert self.scales is not None
        along = (flat @ self.directions.mT) * (self.scales - 1)
        return flat + along @ self.directions

    def _unwhiten(self, flat: Tensor) -> Tensor:
        """Undo :meth:`_whiten`, in float64."""
        if self.whitening is not None:
            # The ridge bounds the condition number: 175 at most for CIFAR.
            solved: Tensor = torch.linalg.lu_solve(*self._factors, flat.mT)
            return solved.mT
        assert self.directions is not None
        assert self.scales is not None
        directions = self.directions.cpu().double()
        along = (flat @ directions.mT) * (1 / self.scales.cpu().double() - 1)
        return flat + along @ directions

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """The whitening matrix factorised, in float64 on the CPU, with its pivots.

        Raises:
            torch.linalg.LinAlgError: it is singular.
        """
        assert self.whitening is not None
        whitening = self.whitening.cpu().double()
        factors, pivots, failed = torch.linalg.lu_factor_ex(whitening)
        if failed:
            raise torch.linalg.LinAlgError(  # type: ignore[attr-defined]
                f"the diagonal has a zero at {int(failed)}"
            )
        return factors, pivots

    def _by_channel(self, device: torch.device) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1)
        return self.mean.to(device).view(shape), self.deviation.to(device).view(shape)

    def _flatten(self, images: Tensor) -> Tensor:
        """Map ``(n, c, h, w)`` to ``(n * stride**2, d)``: a row for each sub-image."""
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
        """Return the tensors for :meth:`from_tensors`, by name."""
        named = {"mean": self.mean, "deviation": self.deviation}
        whole = {
            "centre": self.centre,
            "whitening": None if self.compact else self.whitening,
            "directions": self.directions,
            "scales": self.scales,
        }
        if self.compact is not None:
            named |= self.compact.tensors()
        return named | {
            name: tensor for name, tensor in whole.items() if tensor is not None
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], stride: int) -> "Transform":
        """Rebuild a transform from :meth:`tensors` and its stride.

        Raises:
            ValueError: the tensors do not form a compact matrix.
        """
        compact = None
        if "diagonal" in tensors:
            compact = CompactMatrix.from_tensors(tensors)
        return cls(
            tensors["mean"],
            tensors["deviation"],
            tensors.get("centre"),
            compact.matrix() if compact else tensors.get("whitening"),
            stride,
            tensors.get("directions"),
            tensors.get("scales"),
            compact,
        )


def _along_directions(
    images: ImageSource,
    scale: Transform,
    centre: Tensor,
    count: int,
    ridge: float | None,
) -> Transform:
    """Return the whitening transform fitted to at most as many images as values.

    Directions without data keep scale 1, as in the released code. Centred images span
    one direction fewer than there are images; the released code overlooks this. So the
    matrix is the identity plus a matrix of low rank, found from the inner products of
    images.
    """
    flat = torch.cat(
        [
            scale._flatten(scale.standardize(chunk)).cpu() - centre
            for chunk in chunks(images, _CHUNK)
        ]
    ).double()
    eigenvalues, vectors = torch.linalg.eigh(flat @ flat.mT / count)
    total = float(eigenvalues.sum())
    if not total > 0:
        raise _all_alike()
    kept = eigenvalues > _LEAST_EIGENVALUE * eigenvalues[-1]
    kept[0] = False  # the direction removed by centring
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    directions = vectors.mT @ flat / (count * eigenvalues).sqrt()[:, None]
    if ridge is None:
        ridge = ZCA_RIDGE * total / flat.shape[1]
    return replace(
        scale,
        centre=centre,
        directions=directions.float().contiguous(),
        scales=(eigenvalues + ridge).rsqrt().float(),
    )


def _all_alike() -> DataError:
    return DataError(
        "ZCA needs images that differ, got images that are all alike; use "
        "preprocessing 'standardize'"
    )


def _scale_alike(one: Transform, other: Transform) -> bool:
    """Return whether all channels of a map are scaled like the one of the other."""
    same = one.mean.cpu() == other.mean, one.deviation.cpu() == other.deviation
    return all(bool(each.all()) for each in same)


def _constant(channels: int) -> Transform:
    """Return the map of [0, 1] to [-1, 1]."""
    half = torch.full((channels,), 0.5)
    return Transform(half, half.clone())


def _of_pixels(channels: int) -> Transform:
    """Return the scaling of pixels before they are whitened without standardisation.

    Pixels with covariance C are whitened by ``(C + r I) ** -0.5`` with an absolute
    ridge r. This equals ``(C / r + I) ** -0.5`` of pixels divided by the square root of
    r.
    """
    deviation = torch.full((channels,), math.sqrt(_PIXEL_RIDGE))
    return Transform(torch.zeros(channels), deviation)
