"""Lower bounds on epsilon."""

import math

import numpy as np

from dd_plugins.api import (
    OptionError,
)
from dd_privacy.audit.statistics.figures import clopper_pearson

__all__ = ["clopper_pearson_epsilon", "one_run_epsilon", "one_run_p_value"]

_LARGEST_EPSILON = 50.0


def one_run_p_value(
    epsilon: float, *, examples: int, guesses: int, correct: int, delta: float = 0.0
) -> float:
    """Bound the probability of at least this many right guesses under a guarantee.

    In one run, a fair coin made each of ``examples`` a member or not. The attacker
    guessed for some of them. The bound follows Theorem 5.2 and Proposition 5.1 of
    Steinke, Nasr and Jagielski (2023), with the term of delta.

    Args:
        epsilon: the epsilon of the guarantee.
        examples: the number of possible members.
        guesses: the number of guesses.
        correct: the number of right guesses.
        delta: the delta of the guarantee.

    Returns:
        The bound, in [0, 1].
    """
    from scipy.stats import binom

    right = 1 / (1 + math.exp(-epsilon))
    bound = float(binom.sf(correct - 1, guesses, right))
    if delta > 0 and correct > 0:
        steps = np.arange(1, correct + 1)
        below = binom.cdf(correct - 1, guesses, right)
        within = below - binom.cdf(correct - steps - 1, guesses, right)
        bound += 2 * examples * delta * float((within / steps).max())
    return min(1.0, bound)


def one_run_epsilon(
    *,
    examples: int,
    guesses: int,
    correct: int,
    delta: float = 0.0,
    level: float = 0.95,
) -> float:
    """Return the lower bound on epsilon from one run; smaller epsilons are refuted.

    Args:
        examples: the number of possible members.
        guesses: the number of guesses.
        correct: the number of right guesses.
        delta: the delta of the guarantee.
        level: the confidence level.

    Raises:
        OptionError: there are more guesses than examples, or more right ones than
            guesses.

    Example:
        >>> round(one_run_epsilon(examples=1000, guesses=100, correct=100), 2)
        3.49
    """
    from scipy.optimize import brentq

    if not 0 <= correct <= guesses <= examples:
        raise OptionError(
            "expected 0 <= correct <= guesses <= examples, got "
            f"{correct} right of {guesses} guesses of {examples} examples"
        )

    def excess(epsilon: float) -> float:
        found = one_run_p_value(
            epsilon, examples=examples, guesses=guesses, correct=correct, delta=delta
        )
        return found - (1 - level)

    if guesses == 0 or excess(0.0) >= 0:
        return 0.0
    if excess(_LARGEST_EPSILON) < 0:
        return _LARGEST_EPSILON
    return float(brentq(excess, 0.0, _LARGEST_EPSILON, xtol=1e-6))


def clopper_pearson_epsilon(
    *,
    true_positives: int,
    members: int,
    false_positives: int,
    non_members: int,
    delta: float = 0.0,
    level: float = 0.95,
) -> float:
    """Return the largest epsilon refuted by error rates over independent runs.

    It is the greater of two bounds: one from true- and false-positive rates, one from
    their complements. Both use exact intervals of the two rates at the level.

    Args:
        true_positives: members called members.
        members: all members.
        false_positives: non-members called members.
        non_members: all non-members.
        delta: the delta of the guarantee.
        level: the confidence level.

    Raises:
        ValueError: a count is negative or larger than its total, or the level is not in
            (0, 1).

    Example:
        >>> round(clopper_pearson_epsilon(true_positives=1000, members=1000,
        ...     false_positives=0, non_members=1000, delta=1e-5), 2)
        5.6
    """
    true = clopper_pearson(true_positives, members, level)
    false = clopper_pearson(false_positives, non_members, level)
    found = 0.0
    for low, high in ((true[0], false[1]), (1 - false[1], 1 - true[0])):
        if low > delta and high > 0:
            found = max(found, math.log((low - delta) / high))
    return found
