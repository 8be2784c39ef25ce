"""Kernel regression from a set of images, as a function of other images."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dd_plugins.errors import OptionError
from dd_plugins.functional.kernel_regression import kernel_ridge_coefficients
from dd_plugins.functional.ntk import AbstractKernel
from dd_plugins.runtime.device import in_float64
from dd_plugins.runtime.memory import room_on

__all__ = [
    "MEMORY",
    "RIDGE",
    "check_kernel",
    "kernel_predictor",
    "parts_that_fit",
    "regression_weights",
]

MEMORY = 1.0
"""Gigabytes for the kernel of a part of the images, by default."""

RIDGE = 1e-6
"""The ridge of KIP, relative to the mean eigenvalue of the kernel."""

_GIGABYTE = 1e9


def check_kernel(
    asker: str,
    kernel: AbstractKernel,
    images: int,
    height: int,
    width: int,
    device: torch.device,
) -> None:
    """Refuse a kernel that cannot take the images, or is too large for memory.

    Args:
        asker: the name of the caller, for messages.
        kernel: the kernel.
        images: the number of images of the support.
        height: height of an image, in pixels.
        width: width of an image, in pixels.
        device: the device of the images.

    Raises:
        OptionError: the images are too small for the poolings, or the kernel of the
            support does not fit into memory; the message gives the estimate.
    """
    kernel.check(height, width)
    needed = kernel.bytes_per_pair(height, width) * images**2
    room = room_on(device)
    if needed > room:
        raise OptionError(
            f"{asker}: {kernel!r} of {images} images of {height}x{width} needs about "
            f"{needed / _GIGABYTE:.3g} GB, expected at most {room / _GIGABYTE:.3g}; "
            "take fewer images, or a kernel without pooling"
        )


def regression_weights(
    kernel: AbstractKernel, images: Tensor, labels: Tensor, ridge: float = RIDGE
) -> Tensor:
    """Return the coefficients of kernel ridge regression; they are differentiable.

    Args:
        kernel: the kernel.
        images: the support, float64 ``(n, channels, height, width)``.
        labels: labels of the support, float64 ``(n, classes)``.
        ridge: ridge relative to the mean eigenvalue of the kernel.

    Returns:
        float64 ``(n, classes)``. The prediction for an image is its kernel with the
        support, times these coefficients.
    """
    return kernel_ridge_coefficients(kernel(images, images), labels, ridge=ridge)


def parts_that_fit(
    kernel: AbstractKernel, count: int, images: Tensor, memory: float = MEMORY
) -> Iterator[slice]:
    """Yield slices of ``count`` images, whose kernels with a support fit into memory.

    Args:
        kernel: the kernel.
        count: the number of images.
        images: the support, ``(n, channels, height, width)``.
        memory: gigabytes for the kernel of one slice.
    """
    each = kernel.bytes_per_pair(*images.shape[-2:]) * len(images)
    size = max(1, int(memory * _GIGABYTE / each))
    for start in range(0, count, size):
        yield slice(start, start + size)


@torch.no_grad()
def kernel_predictor(
    kernel: AbstractKernel,
    images: Tensor,
    labels: Tensor,
    *,
    ridge: float = RIDGE,
    memory: float = MEMORY,
) -> Callable[[Tensor], Tensor]:
    """Return the predictor of kernel ridge regression from a set of images.

    Args:
        kernel: the kernel.
        images: the support, float ``(n, channels, height, width)``.
        labels: labels of the support, float ``(n, classes)``.
        ridge: ridge relative to the mean eigenvalue of the kernel.
        memory: gigabytes for the kernel of the images predicted at a time.

    Returns:
        A function of images, float ``(b, channels, height, width)`` in the value space
        of the support, to float32 predictions ``(b, classes)``.
    """
    support, wanted = in_float64(images.detach()), in_float64(labels.detach())
    weights = regression_weights(kernel, support, wanted, ridge)

    @torch.no_grad()
    def predict(others: Tensor) -> Tensor:
        found = [
            kernel(in_float64(others[part]), support) @ weights
            for part in parts_that_fit(kernel, len(others), support, memory)
        ]
        return torch.cat(found).float().to(others.device)

    return predict
