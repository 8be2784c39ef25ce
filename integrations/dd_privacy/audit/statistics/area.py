"""The area under the ROC curve."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dd_privacy.audit.statistics.figures import (
    Array,
    Figure,
    Scores,
    clopper_pearson,
    over_models,
    too_few,
)

__all__ = ["Ints", "area"]

_RESAMPLES = 500


Ints = NDArray[np.int64]


def area(
    targets: Sequence[Scores], *, seed: int = 0, shared_non_members: bool = False
) -> Figure:
    """Return the area under the ROC curve: how often a member outscores a non-member.

    The estimate is the mean over the audited models. The interval is a percentile
    bootstrap over the examples of each model and over the models, at least as wide as
    Student's t over the models. It is widened like the interval of a mean over the
    smaller group, and holds Newcombe's score interval: of few examples near an end, a
    bootstrap alone would hold in only 79 of 100 audits. If all resamples are equal, as
    when members and non-members do not overlap, one end is the Clopper-Pearson bound
    for the smaller group.

    Args:
        targets: the scores of each audited model.
        seed: the seed of the resampling.
        shared_non_members: whether all models have the same non-members in the same
            order, as with a test set. They are then resampled together.
    """
    reason = too_few(targets)
    if reason is not None:
        return Figure(None, None, reason)
    # A single example cannot be resampled.
    targets = [scores for scores in targets if min(map(len, scores)) > 1]
    if not targets:
        return Figure(None, None, "no run has two members and two non-members")

    generator = np.random.default_rng(seed)
    ranks = [_ranks_of_scores(scores) for scores in targets]
    estimates = [float(_area_of_ranks(*scores)) for scores in ranks]
    resampled = _resampled_areas(generator, ranks, shared_non_members)
    # Models are resampled too: each resample takes the mean over models drawn again.
    drawn = generator.integers(len(targets), size=resampled.shape)
    means = np.take_along_axis(resampled, drawn, axis=0).mean(axis=0)
    low, high = (float(bound) for bound in np.quantile(means, (0.025, 0.975)))
    estimate = float(np.mean(estimates))
    members, others = (sum(map(len, each)) for each in zip(*targets, strict=True))
    low, high = _widened((low, high), estimate, min(members, others))
    if low == high:
        fewest = min(len(group) for scores in targets for group in scores)
        bounds = clopper_pearson(round(estimate * fewest), fewest)
    else:
        distinct = len(targets[0].non_members) if shared_non_members else others
        bounds = _score_interval(estimate, members, distinct)
    low, high = min(bounds[0], low), max(bounds[1], high)
    return Figure(estimate, over_models((low, high), estimates, (0.0, 1.0)))


def _resampled_areas(
    generator: np.random.Generator,
    ranks: Sequence[tuple[Ints, Ints]],
    shared_non_members: bool,
) -> Array:
    """Return areas of resampled examples: a row per model, a column per resample."""
    resampled = np.empty((len(ranks), _RESAMPLES))
    batch = _batch(ranks)
    for start in range(0, _RESAMPLES, batch):
        columns = range(_RESAMPLES)[start : start + batch]
        again = None
        for row, (members, non_members) in enumerate(ranks):
            chosen = _drawn(generator, len(columns), len(members))
            if again is None or not shared_non_members:
                again = _drawn(generator, len(columns), len(non_members))
            found = _area_of_ranks(members[chosen], non_members[again])
            resampled[row, columns] = found
    return resampled


def _widened(
    found: tuple[float, float], estimate: float, count: int
) -> tuple[float, float]:
    """Return a bootstrap's interval, corrected for few examples.

    The variance of a resample is ``(count - 1) / count`` of the true one, and Student's
    t replaces the normal distribution (Hesterberg 2015, "What teachers should know
    about the bootstrap", section 4.3).
    """
    from scipy.stats import norm, t

    few = t.ppf(0.975, count - 1) / norm.ppf(0.975) * math.sqrt(count / (count - 1))
    low, high = (estimate + few * (bound - estimate) for bound in found)
    return max(0.0, low), min(1.0, high)


def _score_interval(
    estimate: float, members: int, non_members: int
) -> tuple[float, float]:
    """Return the areas, in (0, 1) like the estimate, from which it may come by chance.

    The variance at each area is Hanley and McNeil's, with the mean size of both groups
    (Newcombe 2006, "Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic", part 2, method 5).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    further = (members + non_members) / 2 - 1
    quantile = float(norm.ppf(0.975))

    def excess(area: float) -> float:
        """Return by how much the estimate is farther off than chance explains."""
        pairs = 1 + further * ((1 - area) / (2 - area) + area / (1 + area))
        variance = area * (1 - area) * pairs / (members * non_members)
        return abs(estimate - area) - quantile * math.sqrt(variance)

    return brentq(excess, 0.0, estimate), brentq(excess, estimate, 1.0)


def _ranks_of_scores(scores: Scores) -> tuple[Ints, Ints]:
    """Return the rank of each score among the distinct scores."""
    _, ranks = np.unique(np.concatenate(scores), return_inverse=True)
    members, non_members = np.split(ranks.astype(np.int64), [len(scores.members)])
    return members, non_members


def _area_of_ranks(members: Ints, non_members: Ints) -> Array:
    """Return the fraction of pairs in which the member has the higher rank.

    Equal ranks count half. Samples lie along the last axis.
    """
    most = 1 + max(members.max(), non_members.max())

    def counts(sample: Ints) -> Ints:
        """Return how often each rank occurs in each sample."""
        rows = sample.reshape(-1, sample.shape[-1])
        apart = rows + most * np.arange(len(rows))[:, None]
        found = np.bincount(apart.ravel(), minlength=most * len(rows))
        return found.reshape(*sample.shape[:-1], most)

    of_non_members = counts(non_members)
    below = of_non_members.cumsum(axis=-1) - of_non_members / 2
    pairs = members.shape[-1] * non_members.shape[-1]
    area_of: Array = (counts(members) * below).sum(axis=-1) / pairs
    return area_of


def _batch(ranks: Iterable[tuple[Ints, Ints]]) -> int:
    """Return how many resamples to count at once: a few million numbers."""
    return max(1, 2_000_000 // max(sum(map(len, each)) for each in ranks))


def _drawn(generator: np.random.Generator, count: int, size: int) -> Ints:
    """Return the indices of ``count`` resamples of ``size`` examples."""
    return generator.integers(size, size=(count, size))
