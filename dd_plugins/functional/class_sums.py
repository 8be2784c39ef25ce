"""Sums of the values of each class, reproducible on CUDA too."""

from torch import Tensor

__all__ = ["class_sums"]


def class_sums(values: Tensor, classes: Tensor, count: int) -> Tensor:
    """Return the sum of the values of each class.

    On CUDA ``index_add`` adds them in the order of arriving threads, so its last bits
    differ from run to run; ``index_put`` sorts them by class first.

    Args:
        values: float of shape ``(n, ...)``.
        classes: int64 of shape ``(n,)``, in ``[0, count)``.
        count: the number of classes.

    Returns:
        Shape ``(count, ...)``, differentiable in the values; 0 for a class without any.
    """
    zeros = values.new_zeros(count, *values.shape[1:])
    if values.device.type == "cuda":
        return zeros.index_put((classes,), values, accumulate=True)
    sums: Tensor = zeros.index_add(0, classes, values)
    return sums
