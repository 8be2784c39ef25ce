"""Figures of an audit against values known otherwise, and how often they are right."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from dd_plugins.errors import OptionError
from dd_plugins.functional.statistics import mean_interval
from dd_privacy.audit.statistics import (
    Figure,
    Scores,
    advantage,
    area,
    balanced_accuracy,
    clopper_pearson,
    clopper_pearson_epsilon,
    non_members_needed,
    one_run_epsilon,
    one_run_p_value,
    true_positive_rate,
)


def scores(members: object, non_members: object) -> Scores:
    return Scores(np.asarray(members, float), np.asarray(non_members, float))


@pytest.mark.parametrize(
    ("examples", "guesses", "correct", "delta", "epsilon"),
    [
        (1000, 100, 100, 0.0, 3.49),
        (1000, 100, 100, 1e-5, 3.47),
        (1000, 100, 90, 0.0, 1.63),
        (1000, 100, 75, 0.0, 0.70),
        (1000, 1000, 600, 0.0, 0.30),
        (1000, 500, 500, 0.0, 5.11),
        (1000, 100, 50, 0.0, 0.0),
        (1000, 0, 0, 0.0, 0.0),
    ],
)
def test_one_run_bound_has_the_values_of_another_implementation(
    examples: int, guesses: int, correct: int, delta: float, epsilon: float
) -> None:
    found = one_run_epsilon(
        examples=examples, guesses=guesses, correct=correct, delta=delta
    )
    assert found == pytest.approx(epsilon, abs=0.005)


def test_one_run_p_value_by_summing_up() -> None:
    examples, guesses, correct, delta, epsilon = 30, 12, 10, 1e-3, 0.7
    right = 1 / (1 + math.exp(-epsilon))
    mass = [
        math.comb(guesses, count) * right**count * (1 - right) ** (guesses - count)
        for count in range(guesses + 1)
    ]
    tail = sum(mass[correct:])
    worst = max(sum(mass[correct - i : correct]) / i for i in range(1, correct + 1))
    wanted = tail + 2 * examples * delta * worst
    found = one_run_p_value(
        epsilon, examples=examples, guesses=guesses, correct=correct, delta=delta
    )
    assert found == pytest.approx(wanted, rel=1e-9)
    assert wanted > tail * 1.01, "delta counts"


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(
        OptionError, match="expected 0 <= correct <= guesses <= examples, got 6"
    ):
        one_run_epsilon(examples=10, guesses=5, correct=6)


@pytest.mark.parametrize(
    ("count", "epsilon"), [(250, 4.21), (1000, 5.60), (5000, 7.21), (25000, 8.82)]
)
def test_epsilon_of_a_perfect_attack_is_limited_by_the_examples(
    count: int, epsilon: float
) -> None:
    found = clopper_pearson_epsilon(
        true_positives=count,
        members=count,
        false_positives=0,
        non_members=count,
        delta=1e-5,
    )
    assert found == pytest.approx(epsilon, abs=0.005)


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


def test_area_of_several_models_varies_with_the_models_too() -> None:
    generator = np.random.default_rng(0)
    # Examples are many, so that all that varies are the models.
    models = [
        scores(generator.normal(shift, 1, 4000), generator.normal(0, 1, 4000))
        for shift in (0.0, 0.5, 1.0)
    ]
    found = area(models)
    alone = [area([model]).estimate for model in models]
    assert found.estimate == pytest.approx(np.mean(alone))
    assert found.ci95 is not None
    assert found.ci95[1] - found.ci95[0] > 0.2


def test_intervals_over_models_are_no_narrower_than_students() -> None:
    generator = np.random.default_rng(2)
    shared = generator.normal(0, 1, 3000)  # as with the test set for all models
    models = [
        tuple(
            scores(generator.normal(shift, 1, 500), half)
            for half in np.split(shared, 2)
        )
        for shift in (0.0, 0.3, 0.6)
    ]
    for figure, lowest in (
        (advantage, -1.0),
        (lambda targets: true_positive_rate(targets, 0.01), 0.0),
    ):
        alone = [figure([model]).estimate for model in models]
        low, high = mean_interval(alone)  # type: ignore[misc]
        found = figure(models).ci95
        assert found[0] <= max(low, lowest)
        assert found[1] >= min(high, 1.0)


@pytest.mark.parametrize("members", [5, 10])
def test_area_of_a_few_members_holds_as_often_as_it_says(members: int) -> None:
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(150):
        drawn = generator.normal(size=members), generator.normal(size=300)
        low, high = area([scores(*drawn)], seed=seed).ci95  # type: ignore[misc]
        held += low <= 0.5 <= high
    # Of a percentile bootstrap, without regard for how few there are, 123 of five.
    assert held >= 133, "88 of 100; 95 are meant"


def test_non_members_that_models_share_are_one_sample() -> None:
    generator = np.random.default_rng(4)
    held = {True: 0, False: 0}
    for seed in range(100):
        others = generator.normal(size=200)
        models = [scores(generator.normal(size=200), others) for _ in range(5)]
        for shared in held:
            found = area(models, seed=seed, shared_non_members=shared).ci95
            assert found is not None
            held[shared] += found[0] <= 0.5 <= found[1]
        gained = [(model, model) for model in models]
        low, high = advantage(gained, shared_non_members=True).ci95  # type: ignore[misc]
        one, two = advantage(gained).ci95  # type: ignore[misc]
        assert high - low > two - one
    assert held[True] >= 91 > held[False], held


def test_a_model_with_one_example_of_a_group_is_left_out() -> None:
    full = scores(range(50, 60), range(50))
    assert area([full, scores([7], range(50))]).estimate == area([full]).estimate
    lonely = area([scores([7], range(50)) for _ in range(6)])
    assert lonely.withheld == "no run has two members and two non-members"


def test_highest_non_member_must_exist() -> None:
    halves = (scores(range(20), []), scores(range(20), range(30)))
    assert true_positive_rate([halves], 0.0).withheld == (
        "too few non-members in the first half"
    )


def test_groups_that_do_not_overlap_have_an_interval_all_the_same() -> None:
    found = area([scores(range(100, 110), range(50))])
    assert found.estimate == 1.0
    assert found.ci95 == pytest.approx((clopper_pearson(10, 10)[0], 1.0))


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


def test_figures_of_too_few_examples_are_withheld_with_the_reason() -> None:
    few = scores(range(4), range(100))
    assert area([few]).withheld == "4 members, at least 5 are needed"
    assert advantage([(few, few)]).estimate is not None, "8 in the two halves"
    coarse = true_positive_rate([(scores(range(50), range(400)),) * 2], 0.01)
    assert coarse.withheld is not None
    assert "needs 1000 non-members, there are 800" in coarse.withheld
    assert coarse.as_dict()["estimate"] is None
    assert [non_members_needed(rate) for rate in (0.01, 0.001, 0.3)] == [
        1000,
        10000,
        34,
    ]
    with pytest.raises(OptionError, match=r"in \[0, 1\)"):
        true_positive_rate([(few, few)], 1.0)


def test_intervals_hold_in_95_of_100_audits_where_scores_say_nothing() -> None:
    generator = np.random.default_rng(1)
    names = ("area", "advantage", "rate 0.02", "rate 0")
    held = dict.fromkeys(names, 0)
    audits = 200
    for audit in range(audits):
        halves = tuple(
            scores(generator.normal(size=300), generator.normal(size=300))
            for _ in range(2)
        )
        whole = scores(*(np.concatenate(parts) for parts in zip(*halves, strict=True)))
        figures: dict[str, tuple[Figure, float]] = {
            "area": (area([whole], seed=audit), 0.5),
            "advantage": (advantage([halves]), 0.0),
            "rate 0.02": (true_positive_rate([halves], 0.02), 0.02),
            # Chance is any rate up to one in as many non-members.
            "rate 0": (true_positive_rate([halves], 0.0), 1 / 301),
        }
        for name, (figure, chance) in figures.items():
            assert figure.ci95 is not None
            low, high = figure.ci95
            held[name] += low <= chance <= high
    # 180 of 200 or fewer would happen with a chance of 1 in 300.
    assert min(held.values()) > 180, held
    assert held["area"] < audits, "an interval that always holds says nothing"
