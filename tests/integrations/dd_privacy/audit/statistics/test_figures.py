"""Figures, and the exact interval of a proportion."""

import json

import numpy as np
import pytest
from scipy import stats
from score_samples import scores

from dd_privacy.audit.statistics import FEWEST, Figure, clopper_pearson
from dd_privacy.audit.statistics.figures import over_models, too_few


@pytest.mark.parametrize(
    ("successes", "trials", "bounds"),
    [
        (0, 500, (0, 0.0074)),
        (1, 1000, (3e-5, 0.0056)),
        (10, 1000, (0.0048, 0.0183)),
        (10, 10000, (0.0005, 0.0018)),
    ],
)
def test_clopper_pearson_by_the_beta_distribution(
    successes: int, trials: int, bounds: tuple[float, float]
) -> None:
    low, high = clopper_pearson(successes, trials)
    assert (low, high) == pytest.approx(bounds, abs=6e-5)
    if successes:
        beta = stats.beta(successes, trials - successes + 1)
        assert low == pytest.approx(beta.ppf(0.025))
    assert high == pytest.approx(
        stats.beta(successes + 1, trials - successes).ppf(0.975)
    )


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 7), (7, 7), (1, 7), (30, 100), (1, 1), (0, 1)]
)
def test_bounds_are_where_as_many_or_as_few_have_the_chance_of_an_error(
    successes: int, trials: int, level: float
) -> None:
    low, high = clopper_pearson(successes, trials, level)
    tail = (1 - level) / 2
    if successes == 0:
        assert low == 0.0
    else:
        assert stats.binom.sf(successes - 1, trials, low) == pytest.approx(tail)
    if successes == trials:
        assert high == 1.0
    else:
        assert stats.binom.cdf(successes, trials, high) == pytest.approx(tail)


@pytest.mark.parametrize(
    ("successes", "trials", "level"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.5)]
)
def test_impossible_proportions_and_levels_are_refused(
    successes: int, trials: int, level: float
) -> None:
    with pytest.raises(ValueError, match="must be in"):
        clopper_pearson(successes, trials, level)


def test_successes_and_failures_have_mirrored_intervals() -> None:
    for successes in range(9):
        low, high = clopper_pearson(successes, 8)
        assert (1 - high, 1 - low) == pytest.approx(clopper_pearson(8 - successes, 8))


@pytest.mark.parametrize("trials", [5, 30])
def test_an_interval_holds_with_at_least_its_level(trials: int) -> None:
    intervals = [clopper_pearson(each, trials) for each in range(trials + 1)]
    low, high = np.array(intervals).T
    for rate in np.linspace(0.01, 0.99, 50):
        mass = stats.binom.pmf(range(trials + 1), trials, rate)
        assert mass[(low <= rate) & (rate <= high)].sum() >= 0.95


def test_a_figure_is_what_a_json_file_can_hold() -> None:
    given, withheld = Figure(0.5, (0.25, 1.0)), Figure(None, None, "of 3")
    found = json.loads(json.dumps([given.as_dict(), withheld.as_dict()]))
    assert found == [
        {"estimate": 0.5, "ci95": [0.25, 1.0], "withheld": None},
        {"estimate": None, "ci95": None, "withheld": "of 3"},
    ]


def test_members_and_non_members_are_counted_over_all_samples() -> None:
    enough = scores(range(FEWEST), range(FEWEST))
    assert too_few([enough]) is None
    lacking = scores(range(FEWEST), range(FEWEST - 1))
    reason = too_few([lacking])
    assert reason is not None
    assert reason.startswith(f"{FEWEST - 1} non-members")
    assert str(FEWEST) in reason
    assert too_few([lacking, scores([], [1.0])]) is None
    first = too_few([scores([], [])])
    assert first is not None
    assert first.startswith("0 members"), "members are named first"


def test_an_interval_over_models_is_at_least_students() -> None:
    estimates = [0.4, 0.5, 0.75]
    low, high = stats.t.interval(
        0.95, 2, np.mean(estimates), np.std(estimates, ddof=1) / np.sqrt(3)
    )
    found = over_models((0.5, 0.6), estimates, (-9.0, 9.0))
    assert found == pytest.approx((low, high))
    assert over_models((-8.0, 8.0), estimates, (-9.0, 9.0)) == (-8.0, 8.0)
    assert over_models((0.5, 0.6), estimates, (0.3, 0.7)) == (0.3, 0.7), "its range"


@pytest.mark.parametrize("estimates", [[], [0.3]])
def test_one_model_says_nothing_of_how_models_differ(estimates: list[float]) -> None:
    assert over_models((0.2, 0.4), estimates, (0.0, 1.0)) == (0.2, 0.4)
