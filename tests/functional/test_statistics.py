"""The interval of a mean, against scipy's and against what it promises."""

import math

import numpy as np
import pytest
from scipy import stats

from dd_plugins.functional.statistics import mean_interval


@pytest.mark.parametrize("count", [2, 3, 10, 200])
def test_interval_is_scipy_s(count: int) -> None:
    values = np.random.default_rng(count).normal(5, 3, count)
    found = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found == pytest.approx((expected.low, expected.high))
    shuffled = mean_interval([float(each) for each in values[::-1]])
    assert found == pytest.approx(shuffled)
    assert found is not None
    assert all(type(each) is float for each in found)


def test_two_values_are_as_far_apart_as_student_s_tangent_says() -> None:
    """With one degree of freedom Student's t is Cauchy's distribution."""
    found = mean_interval([1.0, 3.0])
    half = math.tan(math.pi * 0.475)
    assert found == pytest.approx((2 - half, 2 + half))


def test_one_value_has_no_interval_and_equal_ones_an_empty_one() -> None:
    assert mean_interval([]) is None
    assert mean_interval([0.5]) is None
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_nineteen_of_twenty_intervals_hold_the_mean() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for values in generator.normal(1, 2, (1000, 4)):
        low, high = mean_interval(values) or (0, 0)
        held += low <= 1 <= high
    assert 0.93 < held / 1000 < 0.97
