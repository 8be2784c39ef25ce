"""The area under the ROC curve, against scikit-learn and against all pairs."""

import math
import re
from statistics import NormalDist

import numpy as np
import pytest
from score_samples import drawn, scores
from sklearn.metrics import roc_auc_score

from dd_privacy.audit.statistics import area, clopper_pearson


def test_area_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    given = scores(generator.normal(0.5, 1, 300), generator.normal(0, 1, 400))
    truth = np.r_[np.ones(300), np.zeros(400)]
    found = area([given])
    assert found.estimate == pytest.approx(roc_auc_score(truth, np.concatenate(given)))
    assert found.ci95 is not None
    low, high = found.ci95
    assert low < found.estimate < high
    assert high - low == pytest.approx(4 * 0.0216, rel=0.15), "DeLong's deviation"


def test_a_model_with_one_example_of_a_group_is_left_out() -> None:
    full = scores(range(50, 60), range(50))
    assert area([full, scores([7], range(50))]).estimate == area([full]).estimate
    lonely = area([scores([7], range(50)) for _ in range(6)])
    assert lonely.withheld == "no run has two members and two non-members"


def test_groups_that_do_not_overlap_have_an_interval_all_the_same() -> None:
    found = area([scores(range(100, 110), range(50))])
    assert found.estimate == 1.0
    assert found.ci95 == pytest.approx((clopper_pearson(10, 10)[0], 1.0))


@pytest.mark.parametrize("step", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("members", "non_members"), [(5, 80), (60, 7), (200, 200)])
def test_an_area_is_of_all_pairs_and_ties_count_half(
    members: int, non_members: int, step: float
) -> None:
    given = drawn(members, non_members, gain=0.7, step=step)
    pairs = np.sign(given.members[:, None] - given.non_members)
    estimate = area([given]).estimate
    assert estimate == pytest.approx((1 + pairs.mean()) / 2, rel=1e-12)
    truth = np.r_[np.ones(members), np.zeros(non_members)]
    assert estimate == pytest.approx(roc_auc_score(truth, np.concatenate(given)))


def test_members_and_non_members_have_areas_of_one_together() -> None:
    given = drawn(50, 70, gain=1.0, step=0.5)
    turned = scores(given.non_members, given.members)
    assert area([given]).estimate + area([turned]).estimate == pytest.approx(1)  # type: ignore[operator]
    negative = scores(-given.members, -given.non_members)
    assert area([negative]).estimate == pytest.approx(area([turned]).estimate)


def test_the_order_of_scores_counts_and_nothing_else() -> None:
    given = drawn(50, 70, gain=1.0, step=0.5)
    other = scores(np.exp(given.members), np.exp(given.non_members))
    assert area([other]) == area([given])
    generator = np.random.default_rng(1)
    mixed = scores(*(generator.permutation(each) for each in given))
    assert area([mixed]).estimate == area([given]).estimate


def test_an_estimate_is_the_mean_over_models_of_any_size() -> None:
    models = [drawn(20, 40, 0.5, seed=1), drawn(300, 9, 1.0, seed=2), drawn(7, 7)]
    alone = [area([each]).estimate for each in models]
    assert area(models).estimate == pytest.approx(np.mean(alone))
    assert area(models[::-1]).estimate == pytest.approx(np.mean(alone))


@pytest.mark.parametrize("gain", [-4.0, -0.5, 0.0, 0.5, 4.0])
def test_an_interval_holds_its_estimate_and_lies_in_its_range(gain: float) -> None:
    for given in (drawn(8, 300, gain), drawn(40, 40, gain, step=1.0)):
        found = area([given, given])
        assert found.ci95 is not None
        assert found.estimate is not None
        low, high = found.ci95
        assert 0 <= low <= found.estimate <= high <= 1
        assert low < high


def test_an_interval_of_few_members_near_an_end_holds() -> None:
    truth = NormalDist().cdf(2.5 / math.sqrt(2))
    assert truth == pytest.approx(0.96, abs=0.01)
    found = [area([drawn(10, 100, 2.5, seed=seed)]).ci95 for seed in range(100)]
    holds = [low <= truth <= high for low, high in found]  # type: ignore[misc]
    assert np.mean(holds) >= 0.95


def test_more_examples_make_a_narrower_interval() -> None:
    widths = []
    for count in (20, 200, 2000):
        low, high = area([drawn(count, count, 0.5)]).ci95  # type: ignore[misc]
        widths.append(high - low)
    # With a hundred times as many examples it is about a tenth as wide.
    assert widths[0] / widths[2] == pytest.approx(10, rel=0.35)
    assert widths[0] > widths[1] > widths[2]


def test_resamples_are_drawn_from_the_seed() -> None:
    given = drawn(50, 50, 0.5)
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    first, same, other = (area([given], seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert first.estimate == other.estimate
    assert first.ci95 != other.ci95
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]


@pytest.mark.parametrize("shared", [False, True])
def test_scores_that_are_all_tied_are_chance(shared: bool) -> None:
    found = area([scores([1] * 9, [1] * 30)] * 2, shared_non_members=shared)
    assert found.estimate == 0.5
    low, high = found.ci95  # type: ignore[misc]
    assert low < 0.5 < high


def test_members_that_are_all_below_have_no_area() -> None:
    found = area([scores(range(10), range(100, 150))])
    assert found.estimate == 0.0
    assert found.ci95 == pytest.approx((0.0, clopper_pearson(0, 10)[1]))


@pytest.mark.parametrize(("members", "non_members"), [(4, 9), (9, 4), (0, 9), (9, 0)])
def test_a_few_examples_have_no_figure_but_a_reason(
    members: int, non_members: int
) -> None:
    found = area([scores(range(members), range(non_members))])
    assert (found.estimate, found.ci95) == (None, None)
    assert re.findall(r"\d+", found.withheld or "") == [
        str(min(members, non_members)),
        "5",
    ]
    assert ("non-members" in (found.withheld or "")) == (non_members < members)
