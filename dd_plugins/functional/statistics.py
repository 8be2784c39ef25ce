"""Confidence intervals of means."""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["mean_interval"]


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the mean (Student's t).

    It is None for fewer than two values.
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    count, mean = len(values), float(np.mean(values))
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    return mean - half, mean + half
