"""Guesses about one run: planned by one half, counted on the other."""

import numpy as np
import pytest

from dd_privacy.audit.guessing import Plan, best_plan, bound_of, guess
from dd_privacy.audit.statistics import one_run_epsilon

DELTA = 1e-5


def test_scores_that_separate_are_guessed_on_both_sides() -> None:
    truth = np.arange(200) >= 100
    found = best_plan(np.arange(200.0), truth, DELTA)
    assert (found.fraction, found.clears) == (1.0, True)
    # 2, 4, 10, 20, 40, 100 or 200 guesses on both sides, 1, 5 or 50 more on one.
    wanted = one_run_epsilon(
        examples=200, guesses=200, correct=200, delta=DELTA, level=1 - 0.05 / 10
    )
    assert found.epsilon == wanted
    exact = best_plan(np.arange(200.0), truth, 0.0)
    assert exact.epsilon == one_run_epsilon(examples=200, guesses=200, correct=200)
    assert guess(np.arange(200.0), truth, found) == (200, 200)


def test_only_members_are_called_where_only_they_stand_out() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random(1000) < 0.5
    scores = generator.random(1000)
    exposed = np.flatnonzero(truth)[:30]
    scores[exposed] += 10
    found = best_plan(scores, truth, DELTA)
    assert not found.clears
    assert found.epsilon > 1
    made, correct = guess(scores, truth, found)
    assert made == 25
    assert correct == made


def test_the_number_of_guesses_does_not_depend_on_the_scores() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random(300) < 0.5
    spread = generator.random(300)
    for scores in (spread, 9 * spread + 5, np.zeros(300), np.round(spread)):
        assert guess(scores, truth, Plan(0.0, 0.2, clears=True)).made == 60
        assert guess(scores, truth, Plan(0.0, 0.2, clears=False)).made == 30


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_examples_give_no_guess(count: int) -> None:
    scores, truth = np.arange(float(count)), np.ones(count, bool)
    found = best_plan(scores, truth, DELTA)
    assert found.epsilon == 0.0
    assert guess(scores, truth, found) == (0, 0)


def test_guesses_are_right_if_called_members_are_members_and_cleared_ones_not() -> None:
    scores = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 2.4, 2.6])
    truth = np.array([False, True, True, False, True, False, True, True])
    found = guess(scores, truth, Plan(0.0, 0.5, clears=True))
    # Called: 4 (right) and 5; cleared: 0 (right) and 1.
    assert (found.made, found.correct) == (4, 2)


def test_nothing_to_find_gives_a_bound_near_zero() -> None:
    generator = np.random.default_rng(1)
    bounds = []
    for _ in range(10):
        truth = generator.random(400) < 0.5
        scores = generator.random(400)
        found = best_plan(scores[:200], truth[:200], DELTA)
        bounds.append(bound_of(guess(scores[200:], truth[200:], found), 200, DELTA))
    assert sorted(bounds)[7] == 0.0, "one in twenty may be above"
