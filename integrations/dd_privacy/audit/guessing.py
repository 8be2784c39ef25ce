"""A lower bound on epsilon from an attacker's guesses about one run."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dd_privacy.audit.statistics import Array, one_run_epsilon

__all__ = ["Guesses", "Thresholds", "best_thresholds", "guess"]

_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of the examples to guess about


class Thresholds(NamedTuple):
    """Thresholds for guesses; an example between them gets none.

    Attributes:
        epsilon: the bound from these thresholds on the half they are chosen on.
        high: examples with a score above it are called members.
        low: examples with a score below it are called non-members.
    """

    epsilon: float
    high: float
    low: float


class Guesses(NamedTuple):
    """The counts of an attacker's guesses.

    Attributes:
        made: the number of guesses.
        correct: the number of right guesses.
    """

    made: int
    correct: int


def best_thresholds(
    scores: Array, truth: NDArray[np.bool_], delta: float
) -> Thresholds:
    """Return the thresholds with the greatest bound on these examples.

    Args:
        scores: scores of examples with known membership.
        truth: their membership.
        delta: the delta of the guarantee.
    """
    order = np.argsort(scores)
    count = len(scores)
    best = Thresholds(-1.0, math.inf, -math.inf)
    for fraction in _FRACTIONS:
        guesses = max(1, round(fraction * count / 2))
        if 2 * guesses > count:
            continue
        top, bottom = order[-guesses:], order[:guesses]
        # Where only members stand out, guesses about non-members would dilute them.
        for calls, clears in ((top, bottom), (top, order[:0])):
            epsilon = one_run_epsilon(
                examples=count,
                guesses=len(calls) + len(clears),
                correct=int(truth[calls].sum() + (~truth[clears]).sum()),
                delta=delta,
            )
            if epsilon > best.epsilon:
                # One step beyond the last guessed scores, so they are guessed too.
                high = float(np.nextafter(scores[calls].min(), -math.inf))
                low = -math.inf
                if len(clears):
                    low = float(np.nextafter(scores[clears].max(), math.inf))
                best = Thresholds(epsilon, high, low)
    return best


def guess(scores: Array, truth: NDArray[np.bool_], thresholds: Thresholds) -> Guesses:
    """Count the guesses by thresholds chosen on other examples."""
    called, cleared = scores > thresholds.high, scores < thresholds.low
    correct = (called & truth).sum() + (cleared & ~truth).sum()
    return Guesses(int(called.sum() + cleared.sum()), int(correct))
