"""Whitening: of which images, and its matrix by entries in the cosine basis."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from dd_plugins.functional.cosine import cosine_transform, inverse_cosine_transform
from dd_plugins.runtime.memory import fits_in_memory

__all__ = ["COMPACT_TYPES", "CompactMatrix", "stride_of", "why_not_whitened"]

COMPACT_TYPES = {"places": torch.int32, "entries": torch.float16}
"""The dtypes of the tensors of a compact matrix that are not float32."""

_LARGEST_SIDE = 64  # of images whitened as a whole; larger ones are sub-images
_MOST_WHITENED = 4_800  # values of an image whitened by default: up to 3x40x40
_NEEDED = 3 * 8  # bytes for each entry: float64, with two temporary copies
_MOST_LOST = 0.1  # relative root mean square error of mapped images
_PER_ROW = 32  # off-diagonal entries kept, above the diagonal alone


def stride_of(height: int, width: int) -> int:
    """Return the smallest number of sub-images along a side, at most 64 pixels each."""
    return math.ceil(max(height, width) / _LARGEST_SIDE)


def why_not_whitened(shape: tuple[int, int, int]) -> str | None:
    """Return why images are standardised by default; None if they are whitened.

    Args:
        shape: ``(channels, height, width)`` of an image.
    """
    _, height, width = shape
    if math.prod(shape) > _MOST_WHITENED:
        return "whitening so many values takes long"
    stride = stride_of(height, width)
    if height % stride or width % stride:
        return f"whitening needs sides divisible by {stride}"
    return None


@dataclass(frozen=True, eq=False)
class CompactMatrix:
    """A symmetric matrix over the pixels of images, nearly diagonal in cosine waves.

    Neighbouring pixels are alike everywhere in an image, so the whitening matrix of
    images is nearly diagonal in the basis of cosine waves and uncorrelated colours. Its
    diagonal and its largest other entries are kept: 32 a row, or more, until the matrix
    is positive definite and maps images to within a tenth of their length.

    Attributes:
        colours: float32 of shape ``(channels, channels)``, orthogonal: uncorrelated
            mixtures of the channels.
        diagonal: float32 of shape ``(channels, height, width)``, in that basis.
        places: int32 of shape ``(m,)``, ascending: ``row * d + column`` of each kept
            entry above the diagonal, where d is ``channels * height * width``.
        entries: float16 of shape ``(m,)``, their values.
    """

    colours: Tensor
    diagonal: Tensor
    places: Tensor
    entries: Tensor

    @classmethod
    def of(
        cls, matrix: Tensor, covariance: Tensor, shape: tuple[int, int, int]
    ) -> Self:
        """Return a positive definite matrix in compact form.

        Args:
            matrix: symmetric and positive definite, float64 of shape ``(d, d)``.
            covariance: the covariance of the images, of the same shape.
            shape: ``(channels, height, width)`` of an image of d values.
        """
        channels, height, width = shape
        blocks = covariance.view(channels, height * width, channels, height * width)
        by_channel = blocks.diagonal(dim1=1, dim2=3).mean(dim=-1)
        colours = torch.linalg.eigh(by_channel).eigenvectors.mT.float()
        waves = _in_both(matrix, shape, colours.double(), cosine_transform)
        size = len(waves)
        above = waves.triu(1).flatten()
        most = size * (size - 1) // 2
        count = min(most, _PER_ROW * size)
        while True:
            places = above.abs().topk(count, sorted=False).indices.sort().values
            found = cls(
                colours,
                waves.diagonal().float().view(shape),
                places.int(),
                above[places].half(),
            )
            rounded = found.matrix().double()
            lost = _length(rounded - matrix, covariance) / _length(matrix, covariance)
            _, failed = torch.linalg.cholesky_ex(rounded)
            if (not failed and lost <= _MOST_LOST) or count == most:
                return found
            count = min(most, max(size, 4 * count))

    def matrix(self) -> Tensor:
        """Return the matrix: float32 of shape ``(d, d)``."""
        shape = tuple(self.diagonal.shape)
        size = self.diagonal.numel()
        waves = torch.zeros(size * size, dtype=torch.float64)
        waves[self.places.long()] = self.entries.double()
        waves = waves.view(size, size)
        waves = waves + waves.mT + self.diagonal.double().flatten().diag()
        colours = self.colours.double()
        whole = _in_both(waves, shape, colours, inverse_cosine_transform)
        return whole.float()

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild a matrix from :meth:`tensors`.

        Raises:
            ValueError: the tensors do not form a compact matrix.
        """
        found = cls(*(tensors[each.name] for each in fields(cls)))
        for name, dimensions in (("colours", 2), ("diagonal", 3), ("places", 1)):
            tensor = getattr(found, name)
            if tensor.ndim != dimensions or (name != "places" and not tensor.numel()):
                raise ValueError(
                    f"expected {name} with {dimensions} dimensions and a value, got "
                    f"shape {tuple(tensor.shape)}"
                )
        channels, size = len(found.colours), found.diagonal.numel()
        shapes = {
            "colours": (channels, channels),
            "diagonal": (channels, *found.diagonal.shape[1:]),
            "places": (found.places.numel(),),
            "entries": (found.places.numel(),),
        }
        for name, tensor in found.tensors().items():
            dtype, shape = COMPACT_TYPES.get(name, torch.float32), shapes[name]
            if tensor.dtype != dtype or tensor.shape != shape:
                raise ValueError(
                    f"expected {name} of {dtype} and shape {shape}, got {tensor.dtype} "
                    f"and {tuple(tensor.shape)}"
                )
        if max(found.diagonal.shape[1:]) > _LARGEST_SIDE:
            raise ValueError(
                f"expected sides of at most {_LARGEST_SIDE} pixels, got "
                f"{tuple(found.diagonal.shape[1:])}"
            )
        if not fits_in_memory(_NEEDED * size**2):
            raise ValueError(
                f"expected a matrix that fits in half of the memory, got {size:,} rows"
            )
        unit = torch.eye(channels)
        if not torch.allclose(found.colours @ found.colours.mT, unit, atol=1e-4):
            raise ValueError("expected orthogonal colours, got others")
        places = found.places.long()
        rows, columns = places // max(1, size), places % max(1, size)
        if not ((rows >= 0) & (rows < columns)).all() or (places.diff() <= 0).any():
            raise ValueError("expected ascending places above the diagonal, got others")
        return found


def _length(matrix: Tensor, covariance: Tensor) -> float:
    """Return the root mean square length of mapped images with this covariance."""
    return float(((matrix @ covariance) * matrix).sum().clamp(min=0).sqrt())


def _in_both(
    matrix: Tensor,
    shape: tuple[int, ...],
    colours: Tensor,
    transform: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Transform the rows and the columns of a symmetric matrix as images."""
    size = len(matrix)
    once = transform(matrix.reshape(size, *shape), colours).reshape(size, size)
    return transform(once.mT.reshape(size, *shape), colours).reshape(size, size)
