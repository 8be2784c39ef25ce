"""Lower bounds on epsilon against sums over all counts that are possible."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from dd_plugins.errors import OptionError
from dd_privacy.audit.statistics import (
    clopper_pearson_epsilon,
    one_run_epsilon,
    one_run_p_value,
)


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


@pytest.mark.parametrize(("guesses", "correct"), [(10, 9), (40, 25), (7, 7), (5, 0)])
def test_without_delta_a_p_value_is_that_of_a_binomial_test(
    guesses: int, correct: int
) -> None:
    for epsilon in (0.0, 0.5, 3.0):
        found = one_run_p_value(epsilon, examples=50, guesses=guesses, correct=correct)
        right = math.exp(epsilon) / (1 + math.exp(epsilon))
        wanted = stats.binomtest(correct, guesses, right, alternative="greater").pvalue
        assert found == pytest.approx(wanted, rel=1e-9)


def test_a_p_value_rises_with_the_guarantee_and_falls_with_right_guesses() -> None:
    about = {"examples": 100, "guesses": 40}
    by_epsilon = [
        one_run_p_value(epsilon, correct=30, **about)
        for epsilon in np.linspace(0, 4, 20)
    ]
    assert (np.diff(by_epsilon) > 0).all()
    by_count = [one_run_p_value(1.0, correct=each, **about) for each in range(41)]
    assert (np.diff(by_count[20:]) < 0).all()
    assert by_count[0] == 1.0
    by_delta = [
        one_run_p_value(1.0, correct=35, delta=delta, **about)
        for delta in (0.0, 1e-5, 1e-3, 0.5)
    ]
    assert (np.diff(by_delta) > 0).all()
    assert by_delta[-1] == 1.0, "a probability at most"


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("delta", [0.0, 1e-6])
def test_the_bound_is_where_the_p_value_is_the_chance_of_an_error(
    level: float, delta: float
) -> None:
    about = {"examples": 200, "guesses": 80, "correct": 70, "delta": delta}
    epsilon = one_run_epsilon(level=level, **about)
    assert epsilon > 0.5
    assert one_run_p_value(epsilon, **about) == pytest.approx(1 - level, rel=1e-4)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("guesses", [10, 40])
def test_one_run_refutes_what_holds_at_most_once_in_twenty(
    epsilon: float, guesses: int
) -> None:
    """Randomised response: each guess is right with the greatest chance allowed."""
    right = 1 / (1 + math.exp(-epsilon))
    wrongly = sum(
        stats.binom.pmf(correct, guesses, right)
        for correct in range(guesses + 1)
        if one_run_epsilon(examples=guesses, guesses=guesses, correct=correct) > epsilon
    )
    assert 0 < wrongly <= 0.05


@pytest.mark.parametrize(
    ("examples", "guesses", "correct"), [(10, 5, 6), (10, 11, 3), (10, 5, -1)]
)
def test_counts_that_cannot_be_are_refused_with_what_they_are(
    examples: int, guesses: int, correct: int
) -> None:
    with pytest.raises(
        OptionError, match=rf"{correct}\b.*\b{guesses}\b.*\b{examples}\b"
    ):
        one_run_epsilon(examples=examples, guesses=guesses, correct=correct)


def by_beta(
    true_positives: int,
    members: int,
    false_positives: int,
    non_members: int,
    delta: float,
    level: float,
) -> float:
    """Return the bound from quantiles of beta distributions."""
    tail = (1 - level) / 2
    low, high = 0.0, 1.0
    if true_positives:
        low = stats.beta.ppf(tail, true_positives, members - true_positives + 1)
    if false_positives < non_members:
        high = stats.beta.ppf(
            1 - tail, false_positives + 1, non_members - false_positives
        )
    ratios = [(low - delta) / high, (1 - high - delta) / (1 - low)]
    return max(0.0, *(math.log(each) for each in ratios if each > 0))


@pytest.mark.parametrize("counts", [(40, 50, 3, 60), (9, 10, 0, 10), (5, 50, 0, 400)])
@pytest.mark.parametrize("delta", [0.0, 1e-3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_a_bound_over_runs_by_the_beta_distribution(
    counts: tuple[int, int, int, int], delta: float, level: float
) -> None:
    names = ("true_positives", "members", "false_positives", "non_members")
    about = dict(zip(names, counts, strict=True))
    found = clopper_pearson_epsilon(**about, delta=delta, level=level)
    assert found > 0.3
    assert found == pytest.approx(by_beta(**about, delta=delta, level=level), rel=1e-9)


@pytest.mark.parametrize("counts", [(40, 50, 3, 60), (50, 50, 30, 60), (1, 9, 0, 90)])
def test_calling_nobody_in_place_of_everybody_gives_the_same_bound(
    counts: tuple[int, int, int, int],
) -> None:
    true, members, false, others = counts
    found, turned = (
        clopper_pearson_epsilon(
            true_positives=first, members=one, false_positives=second, non_members=two
        )
        for first, one, second, two in (
            (true, members, false, others),
            (others - false, others, members - true, members),
        )
    )
    assert found == pytest.approx(turned)


@pytest.mark.parametrize(
    ("true_positives", "false_positives"),
    [(0, 0), (50, 50), (25, 25), (10, 40), (0, 50), (27, 25)],
)
def test_an_attack_that_does_no_better_than_chance_refutes_nothing(
    true_positives: int, false_positives: int
) -> None:
    found = clopper_pearson_epsilon(
        true_positives=true_positives,
        members=50,
        false_positives=false_positives,
        non_members=50,
    )
    assert found == 0.0


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.0])
def test_runs_refute_what_holds_at_most_once_in_twenty(epsilon: float) -> None:
    count = 12
    right = 1 / (1 + math.exp(-epsilon))
    chances = [stats.binom.pmf(range(count + 1), count, p) for p in (right, 1 - right)]
    wrongly = 0.0
    for true, false in product(range(count + 1), repeat=2):
        found = clopper_pearson_epsilon(
            true_positives=true,
            members=count,
            false_positives=false,
            non_members=count,
        )
        wrongly += float(chances[0][true] * chances[1][false]) * (found > epsilon)
    assert wrongly <= 0.05


def test_delta_and_confidence_lower_a_bound() -> None:
    counts = {"true_positives": 90, "members": 100}
    counts |= {"false_positives": 2, "non_members": 100}
    found = clopper_pearson_epsilon(**counts)
    assert clopper_pearson_epsilon(**counts, delta=0.1) < found
    assert clopper_pearson_epsilon(**counts, level=0.999) < found
    assert clopper_pearson_epsilon(**counts, delta=0.99) == 0.0
