"""Guesses about one run: thresholds from one half, counts on the other."""

import math

import numpy as np
import pytest

from dd_privacy.audit.guessing import Thresholds, best_thresholds, guess
from dd_privacy.audit.statistics import one_run_epsilon

DELTA = 1e-5


def test_scores_that_separate_are_guessed_on_both_sides() -> None:
    truth = np.arange(200) >= 100
    found = best_thresholds(np.arange(200.0), truth, DELTA)
    # A quarter of the examples at most are called, and a quarter cleared.
    assert (found.high, found.low) == (
        np.nextafter(150.0, -math.inf),
        np.nextafter(49.0, math.inf),
    )
    wanted = one_run_epsilon(examples=200, guesses=100, correct=100, delta=DELTA)
    assert found.epsilon == wanted
    assert guess(np.arange(200.0), truth, found) == (100, 100)


def test_only_members_are_called_where_only_they_stand_out() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random(1000) < 0.5
    scores = generator.random(1000)
    exposed = np.flatnonzero(truth)[:30]
    scores[exposed] += 10
    found = best_thresholds(scores, truth, DELTA)
    assert found.low == -math.inf, "nobody is cleared"
    assert found.epsilon > 1
    made, correct = guess(scores, truth, found)
    assert made >= 20
    assert correct / made > 0.9


def test_scores_equal_to_the_last_guessed_one_are_guessed_too() -> None:
    truth = np.r_[np.zeros(50, bool), np.ones(50, bool)]
    scores = np.r_[np.zeros(50), np.ones(50)]
    found = best_thresholds(scores, truth, DELTA)
    assert found.high < 1.0 < np.nextafter(found.high, math.inf) + 1e-9
    made, correct = guess(scores, truth, found)
    assert (made, correct) in {(50, 50), (100, 100)}


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_examples_give_no_guess(count: int) -> None:
    scores, truth = np.arange(float(count)), np.ones(count, bool)
    found = best_thresholds(scores, truth, DELTA)
    assert found == Thresholds(-1.0, math.inf, -math.inf)
    assert guess(np.arange(9.0), np.ones(9, bool), found) == (0, 0)


def test_guesses_are_right_if_called_members_are_members_and_cleared_ones_not() -> None:
    scores = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    truth = np.array([False, True, True, False, True, False])
    found = guess(scores, truth, Thresholds(0.0, high=3.5, low=1.5))
    # Called: 4 (right) and 5; cleared: 0 (right) and 1.
    assert (found.made, found.correct) == (4, 2)


def test_nothing_to_find_gives_a_bound_near_zero() -> None:
    generator = np.random.default_rng(1)
    bounds = []
    for _ in range(10):
        truth = generator.random(400) < 0.5
        scores = generator.random(400)
        found = best_thresholds(scores[:200], truth[:200], DELTA)
        made, correct = guess(scores[200:], truth[200:], found)
        bounds.append(
            one_run_epsilon(examples=200, guesses=made, correct=correct, delta=DELTA)
        )
    assert sorted(bounds)[7] == 0.0, "one in twenty may be above"
