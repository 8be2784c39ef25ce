"""A lower bound on epsilon from an attacker's guesses about one run."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dd_privacy.audit.statistics import Array, one_run_epsilon

__all__ = ["Guesses", "Plan", "best_plan", "bound_of", "guess"]

_ERROR = 0.05  # the probability that a bound does not hold
_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the examples to guess about

Indices = NDArray[np.intp]


class Plan(NamedTuple):
    """How many examples an attacker guesses about.

    Attributes:
        epsilon: the bound from this plan on the half it is chosen on.
        fraction: the fraction of the examples guessed about, if half of them are called
            non-members.
        clears: whether the examples with the lowest scores are called non-members; else
            only the highest are guessed about, half as many.
    """

    epsilon: float
    fraction: float
    clears: bool

    def counts(self, examples: int) -> tuple[int, int]:
        """Return how many examples are called members, and how many non-members."""
        count = min(max(1, round(self.fraction * examples / 2)), examples // 2)
        return count, count if self.clears else 0

    def chosen(self, scores: Array) -> tuple[Indices, Indices]:
        """Return the indices called members, and those called non-members."""
        order = np.argsort(scores, kind="stable")
        called, cleared = self.counts(len(scores))
        return order[len(order) - called :], order[:cleared]


class Guesses(NamedTuple):
    """The counts of an attacker's guesses.

    Attributes:
        made: the number of guesses.
        correct: the number of right guesses.
    """

    made: int
    correct: int


# Where only members stand out, guesses about non-members would be at random.
_PLANS = [
    Plan(0.0, fraction, clears) for fraction in _FRACTIONS for clears in (True, False)
]


def bound_of(guesses: Guesses, examples: int, delta: float) -> float:
    """Return the lower bound on epsilon from guesses by a chosen plan, at 95 %.

    With a delta, the theorem requires a number of guesses independent of the release
    (Steinke et al. 2023, Theorem 5.2). A plan depends on the release: it is chosen by
    the scores of other examples. So the bound must hold for the number of guesses of
    every plan, and the probability of an error is divided by the count of these
    numbers. Without a delta, the number may depend on anything.

    Args:
        guesses: the counts of guesses.
        examples: the number of examples.
        delta: the delta of the guarantee.
    """
    numbers = {sum(plan.counts(examples)) for plan in _PLANS} if delta else {0}
    return one_run_epsilon(
        examples=examples,
        guesses=guesses.made,
        correct=guesses.correct,
        delta=delta,
        level=1 - _ERROR / len(numbers),
    )


def best_plan(scores: Array, truth: NDArray[np.bool_], delta: float) -> Plan:
    """Return the plan with the greatest bound on these examples.

    Args:
        scores: scores of examples with known membership.
        truth: their membership.
        delta: the delta of the guarantee.
    """
    plans = []
    for plan in _PLANS:
        epsilon = bound_of(guess(scores, truth, plan), len(scores), delta)
        plans.append(plan._replace(epsilon=epsilon))
    # If bounds are equal, for instance all 0, take the plan with the most guesses: a
    # few guesses cannot refute any epsilon.
    return max(plans, key=lambda plan: (plan.epsilon, plan.fraction))


def guess(scores: Array, truth: NDArray[np.bool_], plan: Plan) -> Guesses:
    """Count the guesses by a plan, which was chosen on other examples."""
    called, cleared = plan.chosen(scores)
    correct = truth[called].sum() + (~truth[cleared]).sum()
    return Guesses(len(called) + len(cleared), int(correct))
