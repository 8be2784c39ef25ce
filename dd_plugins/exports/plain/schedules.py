"""The decay of the learning rate, as a factor of its peak: 1 when nothing is done."""

import math

__all__ = ["constant", "cosine", "half_cosine", "halfway"]


def cosine(done: float) -> float:
    """Return the factor of the learning rate: a hundredth at the end."""
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


def half_cosine(done: float) -> float:
    """Return the factor of the learning rate: a half at the end."""
    return (1 + math.cos(math.pi * done / 2)) / 2


def halfway(done: float) -> float:
    """Return the factor of the learning rate: a tenth after half of the steps."""
    return 1.0 if done < 0.5 else 0.1


def constant(done: float) -> float:
    """Return the factor of the learning rate: always one."""
    del done
    return 1.0
