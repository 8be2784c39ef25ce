"""True-positive rates at thresholds from the known half."""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

from dd_plugins.api import (
    OptionError,
)
from dd_privacy.audit.statistics.figures import (
    FEWEST,
    Figure,
    Scores,
    clopper_pearson,
    over_models,
    too_few,
)

__all__ = [
    "advantage",
    "balanced_accuracy",
    "non_members_needed",
    "true_positive_rate",
]

_FALSE_POSITIVES = 10  # expected at every reported rate


_TAIL = 0.0125  # the probability of each of an interval's four errors


def non_members_needed(rate: float) -> int:
    """Return how many non-members a rate needs: ten expected false positives.

    Example:
        >>> non_members_needed(0.001)
        10000
    """
    return FEWEST if rate == 0 else math.ceil(_FALSE_POSITIVES / rate - 1e-9)


def advantage(
    targets: Sequence[tuple[Scores, Scores]], *, shared_non_members: bool = False
) -> Figure:
    """Return the greatest difference between true- and false-positive rate.

    The threshold is chosen on the known half of each model's examples and scored on the
    other half. The interval is for a difference of two proportions, from their exact
    intervals by the method of Zou and Donner (2008, "MOVER").

    Args:
        targets: for each audited model, the scores of the half with known membership,
            and the scores of the other half.
        shared_non_members: whether all models have the same non-members. For the
            interval, each non-member then counts once.
    """
    reason = too_few(chain.from_iterable(targets))
    if reason is not None:
        return Figure(None, None, reason)
    members = non_members = true = false = 0
    estimates = []
    for known, other in targets:
        threshold = _best_threshold(known)
        called = [int((group >= threshold).sum()) for group in other]
        true, false = true + called[0], false + called[1]
        members += len(other.members)
        non_members += len(other.non_members)
        if all(map(len, other)):
            estimates.append(
                called[0] / len(other.members) - called[1] / len(other.non_members)
            )
    if min(members, non_members) == 0:
        return Figure(None, None, "no member or no non-member in the second half")
    positive, negative = true / members, false / non_members
    times = len(targets) if shared_non_members else 1
    (low, high), (least, most) = (
        clopper_pearson(true, members),
        clopper_pearson(round(false / times), round(non_members / times)),
    )
    # Counts were rounded: the interval must contain its own estimate.
    least, most = min(least, negative), max(most, negative)
    found = positive - negative
    bounds = (
        max(-1.0, found - math.hypot(positive - low, most - negative)),
        min(1.0, found + math.hypot(high - positive, negative - least)),
    )
    return Figure(found, over_models(bounds, estimates, (-1.0, 1.0)))


def balanced_accuracy(gained: Figure) -> Figure:
    """Return the mean of true-positive and true-negative rate, from an advantage."""
    if gained.estimate is None or gained.ci95 is None:
        return gained
    low, high = gained.ci95
    return Figure((1 + gained.estimate) / 2, ((1 + low) / 2, (1 + high) / 2))


def _best_threshold(known: Scores) -> float:
    from sklearn.metrics import roc_curve

    if min(map(len, known)) == 0:
        return math.inf
    truth = np.r_[np.ones(len(known.members)), np.zeros(len(known.non_members))]
    false, true, thresholds = roc_curve(truth, np.concatenate(known))
    return float(thresholds[np.argmax(true - false)])


def true_positive_rate(targets: Sequence[tuple[Scores, Scores]], rate: float) -> Figure:
    """Return the true-positive rate at a false-positive rate.

    The threshold is the score of a non-member in the known half: about this rate of the
    half's non-members score higher. Members of the other half above the threshold are
    counted. The true rate of non-members above the threshold is uncertain: it has the
    distribution of an order statistic. So the lower end of the interval is for a
    threshold whose rate is almost surely lower, and the upper end for one whose rate is
    almost surely higher. Each end is the exact bound for its count: the interval holds
    at 95 %, by Bonferroni over the four possible errors.

    At rate 0 the threshold is the highest non-member of the known half, and the
    interval is of the count alone: guessing finds up to one member in as many as the
    half has non-members.

    Args:
        targets: the scores of each audited model, as for :func:`advantage`.
        rate: the false-positive rate, in [0, 1).

    Raises:
        OptionError: the rate is out of its range.
    """
    if not 0 <= rate < 1:
        raise OptionError(f"a false-positive rate must be in [0, 1), got {rate}")
    reason = too_few(chain.from_iterable(targets))
    if reason is not None:
        return Figure(None, None, reason)
    there = min(
        len(known.non_members) + len(other.non_members) for known, other in targets
    )
    if there < non_members_needed(rate):
        return Figure(
            None,
            None,
            f"a false-positive rate of {rate:g} needs {non_members_needed(rate)} "
            f"non-members, there are {there}",
        )
    if min(len(known.non_members) for known, _ in targets) < FEWEST:
        return Figure(None, None, "too few non-members in the first half")
    total, above, estimates = 0, [0, 0, 0], []
    for known, other in targets:
        ordered = np.sort(known.non_members)[::-1]
        total += len(other.members)
        for index, rank in enumerate(_threshold_ranks(len(ordered), rate)):
            threshold = ordered[rank - 1] if rank <= len(ordered) else -math.inf
            count = int((other.members > threshold).sum())
            above[index] += count
            if index == 1 and len(other.members):
                estimates.append(count / len(other.members))
    if total == 0:
        return Figure(None, None, "no member in the second half")
    strict, chosen, loose = above
    level = 0.95 if rate == 0 else 1 - 2 * _TAIL
    low, high = (clopper_pearson(count, total, level) for count in (strict, loose))
    return Figure(chosen / total, over_models((low[0], high[1]), estimates, (0.0, 1.0)))


def _threshold_ranks(count: int, rate: float) -> tuple[int, int, int]:
    """Return three ranks of non-members to exceed; the highest has rank 1.

    The true rate of non-members above the first is almost surely lower than ``rate``.
    Above the second it is about ``rate`` on average, and above the third almost surely
    higher. A rank beyond the count means: there is no such non-member.
    """
    from scipy.stats import beta

    if rate == 0:
        return 1, 1, 1
    ranks = np.arange(1, count + 1)
    lower = beta.cdf(rate, ranks, count + 1 - ranks)  # falls with the rank
    strict = max(1, int((lower >= 1 - _TAIL).sum()))
    loose = int((lower > _TAIL).sum()) + 1
    return strict, max(1, math.floor(rate * (count + 1))), loose
