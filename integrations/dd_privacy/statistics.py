"""What the scores of members and non-members say, each figure with its interval."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dd_plugins.api import OptionError, mean_interval

__all__ = [
    "FEWEST",
    "RATES",
    "Figure",
    "Scores",
    "advantage",
    "area",
    "balanced_accuracy",
    "clopper_pearson",
    "clopper_pearson_epsilon",
    "non_members_needed",
    "one_run_epsilon",
    "one_run_p_value",
    "true_positive_rate",
]

Array = NDArray[np.float64]
Places = NDArray[np.int64]

FEWEST = 5
"""Members or non-members below which no figure is given."""

RATES = (0.01, 0.001, 0.0)
"""The false-positive rates at which true-positive rates are reported."""

_FALSE_POSITIVES = 10  # that a rate must let one expect
_TAIL = 0.0125  # of the four that a rate of true positives may be wrong by
_RESAMPLES = 500
_LARGEST_EPSILON = 50.0


class Scores(NamedTuple):
    """Scores of members and of non-members; the higher, the more like a member.

    Attributes:
        members: float64 of shape ``(m,)``.
        non_members: float64 of shape ``(n,)``.
    """

    members: Array
    non_members: Array


@dataclass(frozen=True)
class Figure:
    """An estimate and its interval, or why there is none.

    Attributes:
        estimate: the estimate; None if it is withheld.
        ci95: bounds that hold in 95 of 100 audits or more; None if it is withheld.
        withheld: the reason, or None.
    """

    estimate: float | None
    ci95: tuple[float, float] | None
    withheld: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the form that stands in a JSON file."""
        return {
            "estimate": self.estimate,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "withheld": self.withheld,
        }


def clopper_pearson(
    successes: int, trials: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the exact interval of a proportion (Clopper and Pearson, 1934).

    Example:
        >>> [round(bound, 4) for bound in clopper_pearson(10, 1000)]
        [0.0048, 0.0183]
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def non_members_needed(rate: float) -> int:
    """Return how many non-members a false-positive rate asks for: ten positives.

    Example:
        >>> non_members_needed(0.001)
        10000
    """
    return FEWEST if rate == 0 else math.ceil(_FALSE_POSITIVES / rate - 1e-9)


def _too_few(scores: Iterable[Scores]) -> str | None:
    """Return why nothing can be said of so few examples, or None."""
    found = list(scores)
    for name in ("members", "non_members"):
        count = sum(len(getattr(each, name)) for each in found)
        if count < FEWEST:
            what = name.replace("_", "-")
            return f"{count} {what}, at least {FEWEST} are needed"
    return None


def area(
    targets: Sequence[Scores], *, seed: int = 0, shared_non_members: bool = False
) -> Figure:
    """Return the area under the ROC curve: the chance that a member scores higher.

    The estimate is the mean over the audited models. The interval is a percentile
    bootstrap over the examples of each and, where there are several, over the models,
    no narrower than Student's t over the models. It is widened as that of a mean of as
    few examples as the smaller group has: a percentile bootstrap of five would hold in
    82 of 100 audits. Where no resample differs from another, as when members and
    non-members do not overlap, the end that is not the estimate is that of Clopper and
    Pearson for the smaller group.

    Args:
        targets: the scores of each audited model.
        seed: of the resampling.
        shared_non_members: whether those of all models are the same examples in the
            same order, as with a test set: they are then resampled together.
    """
    reason = _too_few(targets)
    if reason is not None:
        return Figure(None, None, reason)
    # One example has no resamples.
    targets = [scores for scores in targets if min(map(len, scores)) > 1]
    if not targets:
        return Figure(None, None, "no run has two members and two non-members")

    generator = np.random.default_rng(seed)
    places = [_places(scores) for scores in targets]
    estimates = [float(_area_of_places(*scores)) for scores in places]
    resampled = np.empty((len(places), _RESAMPLES))
    batch = _batch(places)
    for start in range(0, _RESAMPLES, batch):
        columns = range(_RESAMPLES)[start : start + batch]
        again = None
        for row, (members, non_members) in enumerate(places):
            chosen = _drawn(generator, len(columns), len(members))
            if again is None or not shared_non_members:
                again = _drawn(generator, len(columns), len(non_members))
            found = _area_of_places(members[chosen], non_members[again])
            resampled[row, columns] = found
    drawn = generator.integers(len(targets), size=resampled.shape)
    means = np.take_along_axis(resampled, drawn, axis=0).mean(axis=0)
    low, high = (float(bound) for bound in np.quantile(means, (0.025, 0.975)))
    estimate = float(np.mean(estimates))
    together = min(sum(map(len, group)) for group in zip(*targets, strict=True))
    low, high = _widened((low, high), estimate, together)
    if low == high:
        fewest = min(len(group) for scores in targets for group in scores)
        bounds = clopper_pearson(round(estimate * fewest), fewest)
        low, high = min(bounds[0], low), max(bounds[1], high)
    return Figure(estimate, _over_models((low, high), estimates, (0.0, 1.0)))


def _widened(
    found: tuple[float, float], estimate: float, count: int
) -> tuple[float, float]:
    """Return a bootstrap's interval as it should be for so few examples.

    A resample's variance is ``(count - 1) / count`` of what it stands for, and
    Student's t takes the place of the normal distribution (Hesterberg 2015, "What
    teachers should know about the bootstrap", section 4.3).
    """
    from scipy.stats import norm, t

    few = t.ppf(0.975, count - 1) / norm.ppf(0.975) * math.sqrt(count / (count - 1))
    low, high = (estimate + few * (bound - estimate) for bound in found)
    return max(0.0, low), min(1.0, high)


def _places(scores: Scores) -> tuple[Places, Places]:
    """Return the place of each score among the different ones: sorted once for all."""
    _, places = np.unique(np.concatenate(scores), return_inverse=True)
    members, non_members = np.split(places.astype(np.int64), [len(scores.members)])
    return members, non_members


def _area_of_places(members: Places, non_members: Places) -> Array:
    """Return the part of pairs in which the member has the higher place.

    Half a pair for equal places. Samples lie along the last axis.
    """
    most = 1 + max(members.max(), non_members.max())

    def counts(sample: Places) -> Places:
        """Return how often each place occurs in each sample."""
        rows = sample.reshape(-1, sample.shape[-1])
        apart = rows + most * np.arange(len(rows))[:, None]
        found = np.bincount(apart.ravel(), minlength=most * len(rows))
        return found.reshape(*sample.shape[:-1], most)

    of_non_members = counts(non_members)
    below = of_non_members.cumsum(axis=-1) - of_non_members / 2
    pairs = members.shape[-1] * non_members.shape[-1]
    area_of: Array = (counts(members) * below).sum(axis=-1) / pairs
    return area_of


def _over_models(
    found: tuple[float, float], estimates: Sequence[float], most: tuple[float, float]
) -> tuple[float, float]:
    """Return an interval that is no narrower than that over several models.

    Resampling a few models says too little of how models differ, and they may share
    their non-members; so Student's t over the models' own figures is a lower limit.
    """
    of_models = mean_interval(estimates)
    if of_models is None:
        return found
    return (
        max(most[0], min(found[0], of_models[0])),
        min(most[1], max(found[1], of_models[1])),
    )


def _batch(places: Iterable[tuple[Places, Places]]) -> int:
    """Return how many resamples are counted at once: a few million numbers."""
    return max(1, 2_000_000 // max(sum(map(len, each)) for each in places))


def _drawn(generator: np.random.Generator, count: int, size: int) -> Places:
    """Return the places of so many resamples of so many examples."""
    return generator.integers(size, size=(count, size))


def advantage(
    targets: Sequence[tuple[Scores, Scores]], *, shared_non_members: bool = False
) -> Figure:
    """Return the greatest difference of the true- and the false-positive rate.

    The threshold is chosen on the first half of each model's examples and scored on
    the second. The interval is that of a difference of two proportions by the
    method of Zou and Donner (2008, "MOVER") from their exact intervals.

    Args:
        targets: for each audited model the scores of the half whose membership the
            attacker knows, and those of the other.
        shared_non_members: whether those of all models are the same examples: each
            counts once for the interval.
    """
    reason = _too_few(chain.from_iterable(targets))
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
    least, most = min(least, negative), max(most, negative)  # counts were rounded
    found = positive - negative
    bounds = (
        max(-1.0, found - math.hypot(positive - low, most - negative)),
        min(1.0, found + math.hypot(high - positive, negative - least)),
    )
    return Figure(found, _over_models(bounds, estimates, (-1.0, 1.0)))


def balanced_accuracy(gained: Figure) -> Figure:
    """Return the mean of the true-positive and true-negative rate, of an advantage."""
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

    The threshold is that non-member of the first half which the rate of them exceeds;
    the members of the second half are counted. Which part of all non-members exceeds a
    certain one is only known up to the distribution of an order statistic, so the
    interval takes a threshold whose rate is certainly lower for its lower end, and
    one whose rate is certainly higher for its upper end, and the exact
    intervals of the counts there: 95 % by Bonferroni over the four ways to err.

    At rate 0 the threshold is the highest non-member of the first half, and the
    interval that of the count alone: chance is up to one in as many non-members.

    Args:
        targets: as for :func:`advantage`.
        rate: the false-positive rate, in [0, 1).

    Raises:
        OptionError: the rate is out of its range.
    """
    if not 0 <= rate < 1:
        raise OptionError(f"a false-positive rate must be in [0, 1), got {rate}")
    reason = _too_few(chain.from_iterable(targets))
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
        for place, rank in enumerate(_ranks(len(ordered), rate)):
            threshold = ordered[rank - 1] if rank <= len(ordered) else -math.inf
            count = int((other.members > threshold).sum())
            above[place] += count
            if place == 1 and len(other.members):
                estimates.append(count / len(other.members))
    if total == 0:
        return Figure(None, None, "no member in the second half")
    strict, chosen, loose = above
    level = 0.95 if rate == 0 else 1 - 2 * _TAIL
    low, high = (clopper_pearson(count, total, level) for count in (strict, loose))
    return Figure(
        chosen / total, _over_models((low[0], high[1]), estimates, (0.0, 1.0))
    )


def _ranks(count: int, rate: float) -> tuple[int, int, int]:
    """Return which of the highest non-members to exceed, the highest being 1.

    The first so that the rate of all non-members that do is almost surely lower, the
    second so that it is equal in the mean, the third so that it is almost surely
    higher; beyond the count if there is none.
    """
    from scipy.stats import beta

    if rate == 0:
        return 1, 1, 1
    ranks = np.arange(1, count + 1)
    lower = beta.cdf(rate, ranks, count + 1 - ranks)  # falls with the rank
    strict = max(1, int((lower >= 1 - _TAIL).sum()))
    loose = int((lower > _TAIL).sum()) + 1
    return strict, max(1, math.floor(rate * (count + 1))), loose


def one_run_p_value(
    epsilon: float, *, examples: int, guesses: int, correct: int, delta: float = 0.0
) -> float:
    """Return how likely so many right guesses are under a privacy guarantee, at most.

    Each of ``examples`` was a member by a fair coin of its own, in one run; the
    attacker guessed for some. Theorem 5.2 and Proposition 5.1 of Steinke, Nasr and
    Jagielski (2023), with the term of delta.

    Args:
        epsilon: of the guarantee.
        examples: that might have been members.
        guesses: how many were guessed.
        correct: how many of these rightly.
        delta: of the guarantee.

    Returns:
        A bound on the probability, in [0, 1].
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
    """Return the epsilon below which a guarantee is refuted by one run.

    Args:
        examples: as for :func:`one_run_p_value`, like the others.
        guesses: how many were guessed.
        correct: how many of these rightly.
        delta: of the guarantee.
        level: of confidence.

    Raises:
        OptionError: there are more guesses than examples, or more right than made.

    Example:
        >>> round(one_run_epsilon(examples=1000, guesses=100, correct=100), 2)
        3.49
    """
    from scipy.optimize import brentq

    if not 0 <= correct <= guesses <= examples:
        raise OptionError(
            f"{correct} right of {guesses} guesses of {examples} examples: each must "
            "be at most the next"
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
    """Return the epsilon that error rates over independent runs refute.

    The greater of what the true- and false-positive rates and what their complements
    say, each from an exact interval of both rates at the level.

    Args:
        true_positives: members that were called so.
        members: how many there were.
        false_positives: non-members that were called members.
        non_members: how many there were.
        delta: of the guarantee.
        level: of confidence.

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
