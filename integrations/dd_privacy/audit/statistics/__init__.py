"""Figures from scores of members and non-members, each with its interval."""

from dd_privacy.audit.choices import RATES
from dd_privacy.audit.statistics.area import area
from dd_privacy.audit.statistics.epsilon import (
    clopper_pearson_epsilon,
    one_run_epsilon,
    one_run_p_value,
)
from dd_privacy.audit.statistics.figures import (
    FEWEST,
    Array,
    Figure,
    Scores,
    clopper_pearson,
)
from dd_privacy.audit.statistics.rates import (
    advantage,
    balanced_accuracy,
    non_members_needed,
    true_positive_rate,
)

__all__ = [
    "FEWEST",
    "RATES",
    "Array",
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
