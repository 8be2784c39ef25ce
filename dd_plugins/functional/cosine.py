"""The cosine transform of images with decorrelated channels."""

import math

import torch
from torch import Tensor

__all__ = ["cosine_basis", "cosine_transform", "inverse_cosine_transform"]


def cosine_basis(size: int, *, like: Tensor) -> Tensor:
    """Return the orthonormal cosine basis (DCT-II).

    Args:
        size: the number of pixels along a side, at least 1.
        like: a tensor with the dtype and device of the result.

    Returns:
        Shape ``(size, size)``: one wave in each row, the lowest frequency first.
    """
    place = torch.arange(size, dtype=like.dtype, device=like.device)
    waves = torch.cos(math.pi / size * (place + 0.5) * place[:, None])
    waves[0] /= math.sqrt(2)
    return waves * math.sqrt(2 / size)


def cosine_transform(images: Tensor, colours: Tensor) -> Tensor:
    """Return the cosine coefficients of images; an orthogonal map.

    Args:
        images: floating, of shape ``(..., channels, height, width)``.
        colours: orthogonal, of shape ``(channels, channels)``: a row for each mixture
            of channels.

    Returns:
        The coefficients, of the same shape: a channel holds a mixture, and the lowest
        frequencies are in the first rows and columns.
    """
    down = cosine_basis(images.shape[-2], like=images)
    across = cosine_basis(images.shape[-1], like=images)
    mixed = torch.einsum("kc,...chw->...khw", colours, images)
    return down @ mixed @ across.mT


def inverse_cosine_transform(coefficients: Tensor, colours: Tensor) -> Tensor:
    """Return the images of cosine coefficients (see :func:`cosine_transform`)."""
    down = cosine_basis(coefficients.shape[-2], like=coefficients)
    across = cosine_basis(coefficients.shape[-1], like=coefficients)
    mixed = down.mT @ coefficients @ across
    return torch.einsum("kc,...khw->...chw", colours, mixed)
