"""Advantage and true-positive rates, against counts by numpy."""

import math
import re

import numpy as np
import pytest
from scipy import stats
from score_samples import drawn, scores
from sklearn.metrics import balanced_accuracy_score

from dd_plugins.errors import OptionError
from dd_privacy.audit.choices import RATES
from dd_privacy.audit.statistics import (
    Figure,
    advantage,
    balanced_accuracy,
    clopper_pearson,
    non_members_needed,
    true_positive_rate,
)


def test_highest_non_member_must_exist() -> None:
    halves = (scores(range(20), []), scores(range(20), range(30)))
    assert true_positive_rate([halves], 0.0).withheld == (
        "too few non-members in the first half"
    )


def test_advantage_takes_the_threshold_from_the_first_half() -> None:
    known = scores([3, 4, 5, 6, 7], [0, 1, 2, 2.5, 2.6])  # best: 3
    other = scores([2, 3, 5, 6], [0, 1, 4, 2])  # 3 of 4 above, and 1 of 4
    found = advantage([(known, other)])
    assert found.estimate == pytest.approx(0.5)
    assert found.ci95 is not None
    assert found.ci95[0] < 0 < found.ci95[1]
    half = balanced_accuracy(found)
    assert half.estimate == pytest.approx(0.75)


def test_rate_is_counted_on_the_second_half() -> None:
    known = scores(range(5), range(1000))
    other = scores([988, 989.5, 995, 999.5], range(1000))
    found = true_positive_rate([(known, other)], 0.01)
    # Ten of 1000 are 990 and above: the tenth highest is exceeded by the last two.
    assert found.estimate == pytest.approx(2 / 4)
    highest = true_positive_rate([(known, other)], 0.0)
    assert highest.estimate == pytest.approx(1 / 4)
    assert highest.ci95 == pytest.approx(clopper_pearson(1, 4))


@pytest.mark.parametrize("step", [0.0, 0.5])
@pytest.mark.parametrize("gain", [0.0, 1.0, 3.0])
def test_on_its_own_half_an_advantage_is_the_greatest_over_thresholds(
    gain: float, step: float
) -> None:
    given = drawn(40, 60, gain, step=step)
    every = [
        (given.members >= threshold).mean() - (given.non_members >= threshold).mean()
        for threshold in [*np.concatenate(given), np.inf]
    ]
    assert advantage([(given, given)]).estimate == pytest.approx(max(every))


def test_an_advantage_takes_no_threshold_from_what_it_is_counted_on() -> None:
    known, other = drawn(40, 40, 1.0, seed=1), drawn(30, 50, 1.0, seed=2)
    best = max(
        np.concatenate(known),
        key=lambda threshold: (
            (known.members >= threshold).mean()
            - (known.non_members >= threshold).mean()
        ),
    )
    called = [int((each >= best).sum()) for each in other]
    found = advantage([(known, other)])
    assert found.estimate == pytest.approx(called[0] / 30 - called[1] / 50)
    # The interval of Zou and Donner from two exact ones.
    (low, high), (least, most) = (
        stats.binomtest(count, trials).proportion_ci(method="exact")
        for count, trials in zip(called, (30, 50), strict=True)
    )
    positive, negative = called[0] / 30, called[1] / 50
    assert found.ci95 == pytest.approx(
        (
            positive - negative - math.hypot(positive - low, most - negative),
            positive - negative + math.hypot(high - positive, negative - least),
        )
    )


def test_members_with_lower_scores_are_not_found() -> None:
    low, high = drawn(50, 50, -3.0, seed=1), drawn(50, 50, -3.0, seed=2)
    found = advantage([(low, high)]).estimate
    assert found is not None
    assert found <= 0.1, "nobody is called a member, or nearly everybody"
    assert true_positive_rate([(low, high)], 0.0).estimate == 0.0


def test_counts_are_summed_over_models() -> None:
    models = [
        (drawn(9, 20, 2.0, seed=2 * each), drawn(11 + each, 30, 2.0, seed=2 * each + 1))
        for each in range(3)
    ]
    alone = [advantage([each]).estimate for each in models]
    members = [len(other.members) for _, other in models]
    found = advantage(models)
    assert found.estimate is not None
    assert min(alone) <= found.estimate <= max(alone)  # type: ignore[type-var]
    rates = [true_positive_rate([each], 0.0).estimate for each in models]
    wanted = np.average(rates, weights=members)  # type: ignore[arg-type]
    assert true_positive_rate(models, 0.0).estimate == pytest.approx(wanted)


def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    given = drawn(40, 70, 1.5)
    gained = advantage([(given, given)])
    found = balanced_accuracy(gained)
    truth = np.r_[np.ones(40), np.zeros(70)]
    every = np.concatenate(given)
    best = max(balanced_accuracy_score(truth, every >= each) for each in every)
    assert found.estimate == pytest.approx(best)
    assert found.ci95 == pytest.approx(tuple((1 + bound) / 2 for bound in gained.ci95))  # type: ignore[union-attr]
    withheld = Figure(None, None, "of 3")
    assert balanced_accuracy(withheld) == withheld


def test_without_a_known_member_nobody_is_called() -> None:
    known, other = scores([], range(20)), scores(range(30, 50), range(20))
    found = advantage([(known, other)])
    assert found.estimate == 0.0
    assert found.ci95 is not None
    assert found.ci95[0] < 0 < found.ci95[1]


def test_without_a_member_in_the_second_half_figures_are_withheld() -> None:
    halves = [(scores(range(20), range(20)), scores([], range(20)))]
    for found in (advantage(halves), true_positive_rate(halves, 0.0)):
        assert (found.estimate, found.ci95) == (None, None)
        assert "half" in (found.withheld or "")


def test_shared_non_members_count_once() -> None:
    others = np.random.default_rng(0).normal(size=400)
    models = []
    for seed in range(4):
        own = drawn(200, 1, 0.0, seed).members
        models.append(
            (scores(own[:100], others[:200]), scores(own[100:], others[200:]))
        )
    apart, shared = (
        advantage(models, shared_non_members=each) for each in (False, True)
    )
    assert shared.estimate == apart.estimate
    widths = [each.ci95[1] - each.ci95[0] for each in (apart, shared)]  # type: ignore[index]
    assert widths[1] > widths[0]


@pytest.mark.parametrize("rate", [0.1, 0.05, 0.02])
def test_a_rate_is_of_members_above_a_quantile_of_known_non_members(
    rate: float,
) -> None:
    known, other = drawn(50, 999, seed=1), drawn(400, 999, 2.0, seed=2)
    found = true_positive_rate([(known, other)], rate)
    allowed = math.floor(rate * 1000)  # each place among 999 is as likely: 1000
    threshold = np.sort(known.non_members)[-allowed]
    wanted = (other.members > threshold).mean()
    assert found.estimate == pytest.approx(wanted)
    assert found.ci95 is not None
    low, high = found.ci95
    assert low < stats.norm.sf(stats.norm.isf(rate) - 2.0) < high, "the true rate"


def test_a_greater_rate_finds_as_many_or_more() -> None:
    halves = [(drawn(50, 2000, seed=1), drawn(300, 2000, 1.0, seed=2))]
    found = [true_positive_rate(halves, rate) for rate in (0.0, 0.01, 0.05, 0.3, 0.9)]
    estimates = [each.estimate for each in found]
    assert estimates == sorted(estimates)  # type: ignore[type-var]
    assert 0.98 < estimates[-1] <= 1.0  # type: ignore[operator]


def test_a_member_that_is_tied_with_the_threshold_is_not_found() -> None:
    known = scores(range(5), [7.0] * 50)
    tied, above = scores([7.0] * 10, range(50)), scores([7.5] * 10, range(50))
    for rate, members, estimate in (
        (0.0, tied, 0.0),
        (0.0, above, 1.0),
        (0.3, tied, 0),
    ):
        assert true_positive_rate([(known, members)], rate).estimate == estimate


def test_non_members_of_the_second_half_do_not_move_the_threshold() -> None:
    known, other = drawn(20, 600, seed=1), drawn(50, 600, 1.0, seed=2)
    raised = scores(other.members, other.non_members + 100)
    for rate in (0.0, 0.02):
        first, second = (
            true_positive_rate([(known, each)], rate) for each in (other, raised)
        )
        assert first == second


def test_at_rate_zero_the_interval_is_that_of_the_count_alone() -> None:
    known, other = drawn(20, 60, seed=1), drawn(80, 60, 2.0, seed=2)
    count = int((other.members > known.non_members.max()).sum())
    found = true_positive_rate([(known, other)], 0.0)
    assert found.estimate == pytest.approx(count / 80)
    assert found.ci95 == pytest.approx(clopper_pearson(count, 80))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan])
def test_a_rate_out_of_its_range_is_refused(rate: float) -> None:
    given = drawn(20, 20)
    with pytest.raises(OptionError, match=str(rate)):
        true_positive_rate([(given, given)], rate)


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.0, 5), (0.01, 1000), (0.001, 10_000), (0.5, 20), (0.3, 34)]
)
def test_a_rate_needs_ten_non_members_that_are_called_wrongly(
    rate: float, needed: int
) -> None:
    assert non_members_needed(rate) == needed
    assert set(RATES) == {0.01, 0.001, 0.0}
    if rate:
        half = needed // 2
        enough = drawn(50, half), drawn(50, needed - half, seed=1)
        assert true_positive_rate([enough], rate).withheld is None
        lacking = drawn(50, half), drawn(50, needed - half - 1, seed=1)
        reason = true_positive_rate([lacking], rate).withheld or ""
        assert re.findall(r"[\d.]+", reason) == [
            f"{rate:g}",
            str(needed),
            str(needed - 1),
        ]
