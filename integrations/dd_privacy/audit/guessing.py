"""A lower bound on epsilon from an attacker's guesses about one run."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dd_privacy.audit.statistics import Array, one_run_epsilon

__all__ = ["Guesses", "Plan", "best_plan", "guess"]

_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the examples to guess about

Indices = NDArray[np.intp]


class Plan(NamedTuple):
    """How many examples an attacker guesses about; it is fixed before scores are seen.

    With a delta, the bound holds for a number of guesses that does not depend on the
    scores (Steinke et al. 2023, Theorem 5.2).

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

    def chosen(self, scores: Array) -> tuple[Indices, Indices]:
        """Return the indices called members, and those called non-members."""
        order = np.argsort(scores, kind="stable")
        count = min(max(1, round(self.fraction * len(scores) / 2)), len(scores) // 2)
        return order[len(order) - count :], order[: count if self.clears else 0]


class Guesses(NamedTuple):
    """The counts of an attacker's guesses.

    Attributes:
        made: the number of guesses.
        correct: the number of right guesses.
    """

    made: int
    correct: int


def best_plan(scores: Array, truth: NDArray[np.bool_], delta: float) -> Plan:
    """Return the plan with the greatest bound on these examples.

    Args:
        scores: scores of examples with known membership.
        truth: their membership.
        delta: the delta of the guarantee.
    """
    plans = []
    for fraction in _FRACTIONS:
        # Where only members stand out, guesses about non-members would dilute them.
        for clears in (True, False):
            plan = Plan(0.0, fraction, clears)
            made, correct = guess(scores, truth, plan)
            epsilon = one_run_epsilon(
                examples=len(scores), guesses=made, correct=correct, delta=delta
            )
            plans.append(plan._replace(epsilon=epsilon))
    # Of equal bounds, such as none, that of more guesses: few could refute nothing.
    return max(plans, key=lambda plan: (plan.epsilon, plan.fraction))


def guess(scores: Array, truth: NDArray[np.bool_], plan: Plan) -> Guesses:
    """Count the guesses by a plan, which was chosen on other examples."""
    called, cleared = plan.chosen(scores)
    correct = truth[called].sum() + (~truth[cleared]).sum()
    return Guesses(len(called) + len(cleared), int(correct))
