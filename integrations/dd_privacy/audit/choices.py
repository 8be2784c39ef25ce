"""Choices and defaults of the options of an audit; light to import."""

from typing import Literal, get_args

__all__ = [
    "ALL_STEPS",
    "COMPARISONS",
    "DEFAULT_ATTACKS",
    "DELTA",
    "RATES",
    "Comparison",
    "NonMembers",
]

DEFAULT_ATTACKS = (
    "loss",
    "modified_entropy",
    "logistic_regression(threat='both')",
    "pixel_distance",
    "feature_distance",
    "lira",
    "lira(online=False)",
    "rmia",
)
"""The attacks of an audit by default, if there are enough shadow runs for them."""

DELTA = 1e-5
"""The delta of lower bounds on epsilon by default."""

RATES = (0.01, 0.001, 0.0)
"""The false-positive rates at which true-positive rates are reported."""

NonMembers = Literal["train", "test"]
"""Where non-members come from: training images left out, or the test set."""

Comparison = Literal["all", "random", "noise", "private"]
"""The name of a comparison of an audited distiller."""

COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)
"""The names of all comparisons."""

ALL_STEPS = 1_000
"""Training steps of a network on all members."""
