"""What noisy steps spend."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from dd_plugins.errors import OptionError
from dd_privacy.private import accounting
from dd_privacy.private.accounting import (
    Budget,
    check_delta,
    noise_multiplier_for,
    spent,
)

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")


@pytest.mark.parametrize(
    ("noise", "sample_rate", "steps", "epsilon"),
    [
        (1.777, 256 / 60000, 10000, 0.991),
        (1.0, 0.01, 1000, 1.838),
        (5.0, 1.0, 1, 0.736),
    ],
)
def test_accountant_has_the_values_that_are_known(
    noise: float, sample_rate: float, steps: int, epsilon: float
) -> None:
    found = spent(noise, sample_rate=sample_rate, steps=steps, delta=1e-5)
    assert found.epsilon == pytest.approx(epsilon, abs=2e-3)
    assert (found.accountant, found.fallback) == ("prv", None)


def test_one_release_by_the_formula_of_the_gaussian_mechanism() -> None:
    """Theorem 8 of Balle and Wang (2018): exact for one step with all examples."""
    noise, delta = 3.0, 1e-5

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * noise), epsilon * noise
        return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b)) - delta

    found = spent(noise, sample_rate=1.0, steps=1, delta=delta)
    assert found.epsilon == pytest.approx(brentq(excess, 0, 10), abs=0.02)


def test_noise_for_an_epsilon_is_the_least() -> None:
    found = noise_multiplier_for(1.0, sample_rate=256 / 60000, steps=10000, delta=1e-5)
    assert 0.995 <= found.epsilon <= 1.0
    assert found.noise_multiplier == pytest.approx(1.77, abs=0.01)
    assert found.accountant == "prv"


@pytest.mark.parametrize(
    ("epsilon", "sample_rate", "steps", "accountant", "tries"),
    [
        (0.5, 0.1, 300, "prv", 5),
        (10.0, 0.1, 300, "prv", 5),
        (30.0, 1.0, 5, "prv", 5),
        (100.0, 0.05, 100, "rdp", 5),  # its noise is below that of PRV
        (100.0, 1.0, 5, "rdp", 3),
    ],
)
def test_noise_is_found_in_few_tries(
    epsilon: float,
    sample_rate: float,
    steps: int,
    accountant: str,
    tries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[object] = []
    known = accounting._epsilon

    def counted(*about: Any) -> float:
        made.append(about)
        return known(*about)

    monkeypatch.setattr(accounting, "_epsilon", counted)
    accounting._spent.cache_clear()
    accounting._noise_multiplier_for.cache_clear()
    found = noise_multiplier_for(
        epsilon, sample_rate=sample_rate, steps=steps, delta=1e-5
    )
    assert 0.995 * epsilon <= found.epsilon <= epsilon
    assert found.accountant == accountant
    assert len(made) <= tries


@pytest.mark.parametrize(
    ("epsilon", "sample_rate", "steps", "delta", "most_noise"),
    [
        (0.3, 1e-4, 1, 1e-3, 0.41),  # PRV's epsilon does not fall here
        (20.0, 1.0, 1, 1e-5, 0.3005),  # the least noise that PRV takes
        (30.0, 0.3, 3, 1e-5, 0.3125),  # close to it
        (0.01, 1.0, 1, 4e-3, 92.0),  # PRV is not exact enough
    ],
)
def test_noise_is_the_least_and_enough_where_prv_is_difficult(
    epsilon: float, sample_rate: float, steps: int, delta: float, most_noise: float
) -> None:
    about = {"sample_rate": sample_rate, "steps": steps, "delta": delta}
    found = noise_multiplier_for(epsilon, **about)  # type: ignore[arg-type]
    assert found.epsilon <= epsilon
    assert found.noise_multiplier <= most_noise


def test_noise_is_enough_where_prv_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    known = accounting._epsilon

    def failing(accountant: Any, *about: Any) -> float:
        if accountant == "prv":
            raise ArithmeticError("no PRV")
        return known(accountant, *about)

    monkeypatch.setattr(accounting, "_epsilon", failing)
    accounting._spent.cache_clear()
    setting = accounting._Setting(sample_rate=1.0, steps=10, delta=1e-5)
    for epsilon in (1.78409, 2.3, 9.7):
        found = accounting._noise_multiplier_for.__wrapped__(epsilon, setting)
        assert (found.accountant, found.fallback) == ("rdp", "PRV failed: no PRV")
        assert 0.99 * epsilon <= found.epsilon <= epsilon
    accounting._spent.cache_clear()


def test_a_delta_is_less_than_that_of_publishing_an_image() -> None:
    check_delta(0.0099, 100)
    with pytest.raises(OptionError, match=r"less than 1/100 .* got 0.01: .* as 0.001"):
        check_delta(0.01, 100)


def test_fallback_to_rdp_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"sample_rate": 0.02, "steps": 50, "delta": 1e-4}
    small = spent(0.2, **about)  # type: ignore[arg-type]
    assert small.accountant == "rdp"
    assert small.fallback == "PRV is too expensive for noise below 0.3"
    known = accounting._epsilon

    def overflows(accountant: str, *values: float) -> float:
        if accountant == "prv":
            raise OverflowError("the grid is too large")
        return known(accountant, *values)  # type: ignore[arg-type]

    monkeypatch.setattr(accounting, "_epsilon", overflows)
    found = spent(1.1, **about)  # type: ignore[arg-type]
    assert found.accountant == "rdp"
    assert found.fallback == "PRV failed: the grid is too large"
    least = noise_multiplier_for(3.3, **about)  # type: ignore[arg-type]
    assert least.accountant == "rdp"
    assert least.epsilon <= 3.3


def test_steps_to_be_accounted_for_are_whole_numbers() -> None:
    about = {"sample_rate": 0.1, "delta": 1e-5}
    whole = spent(1.0, steps=1, **about)
    assert spent(1.0, steps=np.int64(1), **about) == whole  # type: ignore[arg-type]
    for steps in (True, 1.0, 4.5):  # the first two are what 1 is, to a cache
        with pytest.raises(OptionError, match="steps must be a whole number"):
            spent(1.0, steps=steps, **about)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="steps must be a whole number"):
            noise_multiplier_for(1.0, steps=steps, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 0.0}, r"sample_rate must be in \(0, 1\], got 0.0"),
        ({"sample_rate": 1.5}, r"sample_rate must be in \(0, 1\], got 1.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"delta": 0.0}, r"delta must be in \(0, 1\), got 0.0"),
        ({"delta": 1.0}, r"delta must be in \(0, 1\), got 1.0"),
        ({"delta": "small"}, "delta must be a number, got 'small'"),
    ],
)
def test_what_cannot_be_accounted_for_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    about: dict[str, Any] = {"sample_rate": 0.1, "steps": 5, "delta": 1e-5, **changes}
    with pytest.raises(OptionError, match=message):
        spent(1.0, **about)
    with pytest.raises(OptionError, match=message):
        noise_multiplier_for(1.0, **about)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan")])
def test_noise_is_positive(noise: float) -> None:
    with pytest.raises(OptionError, match="noise_multiplier must be positive, got"):
        spent(noise, sample_rate=0.1, steps=1, delta=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, float("inf"), float("nan")])
def test_epsilon_is_positive_and_finite(epsilon: float) -> None:
    with pytest.raises(OptionError, match="epsilon must be positive and finite, got"):
        noise_multiplier_for(epsilon, sample_rate=0.1, steps=1, delta=1e-5)


def test_a_budget_tells_what_it_is_of() -> None:
    found = spent(1.5, sample_rate=0.05, steps=40, delta=1e-4)
    assert (found.noise_multiplier, found.sample_rate) == (1.5, 0.05)
    assert (found.steps, found.delta) == (40, 1e-4)
    assert Budget(**asdict(found)) == found, "a file holds it"


def test_more_steps_and_less_noise_spend_more() -> None:
    about: dict[str, Any] = {"sample_rate": 0.05, "delta": 1e-4}
    base = spent(1.5, steps=40, **about).epsilon
    assert spent(1.5, steps=80, **about).epsilon > base
    assert spent(1.2, steps=40, **about).epsilon > base
    assert spent(1.5, steps=40, sample_rate=0.1, delta=1e-4).epsilon > base
    assert spent(1.5, steps=40, sample_rate=0.05, delta=1e-6).epsilon > base


@pytest.mark.parametrize(
    ("noise", "given"),  # a noise of its own: the cache would answer
    [(1.71, float("nan")), (1.72, float("inf")), (1.73, -0.5)],
)
def test_an_accountant_that_gives_no_epsilon_is_not_believed(
    noise: float, given: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = accounting._epsilon

    def strange(accountant: str, *values: float) -> float:
        return given if accountant == "prv" else known(accountant, *values)  # type: ignore[arg-type]

    monkeypatch.setattr(accounting, "_epsilon", strange)
    found = spent(noise, sample_rate=0.03, steps=20, delta=1e-4)
    assert found.accountant == "rdp"
    assert found.fallback == f"PRV gave {given}"
    assert 0 < found.epsilon < 10


@pytest.mark.parametrize("epsilon", [0.1, 0.05])
def test_noise_is_found_where_rdp_proves_no_epsilon_so_small(epsilon: float) -> None:
    setting: dict[str, Any] = {"sample_rate": 0.01, "steps": 100, "delta": 1e-5}
    found = noise_multiplier_for(epsilon, **setting)
    assert 0.98 * epsilon < found.epsilon <= epsilon
    assert found.accountant == "prv"
    with pytest.raises(OptionError, match=r"no noise keeps 100 steps .* epsilon 1e-05"):
        noise_multiplier_for(1e-5, **setting)


def test_noise_is_little_more_than_enough_near_the_error_of_prv() -> None:
    setting: dict[str, Any] = {"sample_rate": 1e-4, "steps": 1, "delta": 1e-5}
    found = noise_multiplier_for(0.01, **setting)
    assert found.epsilon <= 0.01
    less = spent(0.97 * found.noise_multiplier, **setting)
    assert found.noise_multiplier <= 0.3 or less.epsilon > 0.01
