"""Figures with intervals, or with the reason for withholding them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dd_plugins.api import mean_interval

__all__ = ["FEWEST", "Array", "Figure", "Scores", "clopper_pearson"]

Array = NDArray[np.float64]


FEWEST = 5
"""The fewest members and non-members for which figures are given."""


class Scores(NamedTuple):
    """Scores of members and of non-members; members should have higher ones.

    Attributes:
        members: float64 of shape ``(m,)``.
        non_members: float64 of shape ``(n,)``.
    """

    members: Array
    non_members: Array


@dataclass(frozen=True)
class Figure:
    """An estimate and its interval, or the reason for withholding both.

    Attributes:
        estimate: the estimate; None if it is withheld.
        ci95: bounds that hold in at least 95 of 100 audits; None if withheld.
        withheld: the reason, or None.
    """

    estimate: float | None
    ci95: tuple[float, float] | None
    withheld: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the form of a JSON file."""
        return {
            "estimate": self.estimate,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "withheld": self.withheld,
        }


def clopper_pearson(
    successes: int, trials: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the exact interval of a proportion (Clopper and Pearson, 1934).

    Its bounds are quantiles of beta distributions.

    Args:
        successes: the number of successes, in ``[0, trials]``.
        trials: the number of trials, 0 or more.
        level: the confidence level, in (0, 1).

    Raises:
        ValueError: ``successes`` is negative or larger than ``trials``, or the level is
            not in (0, 1).

    Example:
        >>> [round(bound, 4) for bound in clopper_pearson(10, 1000)]
        [0.0048, 0.0183]
    """
    from scipy.special import betaincinv

    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in [0, {trials}], got {successes}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    failures, tail = trials - successes, (1 - level) / 2
    low = betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return float(low), float(high)


def too_few(scores: Iterable[Scores]) -> str | None:
    """Return why there are too few examples for a figure, or None."""
    found = list(scores)
    for name in ("members", "non_members"):
        count = sum(len(getattr(each, name)) for each in found)
        if count < FEWEST:
            what = name.replace("_", "-")
            return f"{count} {what}, at least {FEWEST} are needed"
    return None


def over_models(
    found: tuple[float, float], estimates: Sequence[float], most: tuple[float, float]
) -> tuple[float, float]:
    """Return an interval at least as wide as the interval over several models.

    Resamples of a few models understate the differences between models, and models may
    share their non-members. So the interval contains Student's t over the models' own
    figures.
    """
    of_models = mean_interval(estimates)
    if of_models is None:
        return found
    return (
        max(most[0], min(found[0], of_models[0])),
        min(most[1], max(found[1], of_models[1])),
    )
