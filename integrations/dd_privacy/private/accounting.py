"""Privacy accounting for Poisson-sampled Gaussian steps: PRV, or else RDP."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from dd_plugins.api import OptionError, number, one_line, whole_number
from dd_privacy.private.obstacles import require_opacus

__all__ = ["Accountant", "Budget", "noise_multiplier_for", "spent"]

Accountant = Literal["prv", "rdp"]
"""Privacy random variables (tight), or Rényi differential privacy."""

_SMALLEST_NOISE = 0.3  # below this, PRV takes minutes and gigabytes
_TOLERANCE = 0.005  # how far epsilon may stay below its target, relative to it
_ATTEMPTS = 12
_LARGEST_NOISE = 2.0**15  # looked for where RDP finds none
_LARGEST_LOGARITHM = 100.0  # of a noise multiplier
_WHOLE_ORDERS = range(2, 64)  # for other orders RDP's series is 100 times as long


@dataclass(frozen=True)
class Budget:
    """The privacy spent by a number of noisy steps.

    Attributes:
        epsilon: the epsilon at ``delta``.
        delta: the delta of the guarantee: roughly, the probability that epsilon fails.
        noise_multiplier: the noise's standard deviation in units of the clipping norm.
        sample_rate: the probability that an example is in a batch.
        steps: the number of steps.
        accountant: ``"prv"``, or ``"rdp"`` if PRV failed.
        fallback: why PRV failed; None if it did not.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    accountant: Accountant
    fallback: str | None = None


def spent(
    noise_multiplier: float, *, sample_rate: float, steps: int, delta: float
) -> Budget:
    """Return the privacy budget spent by noisy steps.

    Args:
        noise_multiplier: the noise's standard deviation in units of the clipping norm.
        sample_rate: the rate of Poisson sampling, in (0, 1].
        steps: the number of steps.
        delta: the delta, in (0, 1).

    Raises:
        OptionError: an argument is out of its range.
        MissingExtraError: opacus is not installed.
    """
    checked = _checked(sample_rate, steps, delta)
    noise_multiplier = number("noise_multiplier", noise_multiplier)
    if not noise_multiplier > 0:
        raise OptionError(f"noise_multiplier must be positive, got {noise_multiplier}")
    return _spent(noise_multiplier, *checked)


@cache  # called after the checks: to a cache, 1.0 and True equal 1
def _spent(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float
) -> Budget:
    about = (delta, noise_multiplier, sample_rate, steps)
    if noise_multiplier < _SMALLEST_NOISE:
        reason = f"PRV is too dear for noise below {_SMALLEST_NOISE}"
    else:
        try:
            found = _epsilon("prv", noise_multiplier, sample_rate, steps, delta)
        except (ArithmeticError, RuntimeError, ValueError, MemoryError) as error:
            reason = f"PRV failed: {one_line(error)}"
        else:
            if math.isfinite(found) and found >= 0:
                return Budget(found, *about, "prv")
            reason = f"PRV gave {found}"
    found = _epsilon("rdp", noise_multiplier, sample_rate, steps, delta)
    return Budget(found, *about, "rdp", reason)


def _epsilon(
    accountant: Accountant,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
) -> float:
    require_opacus()
    from opacus.accountants import create_accountant

    found = create_accountant(accountant)
    found.history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RDP warns that its orders could be finer
        return float(found.get_epsilon(delta))


def noise_multiplier_for(
    epsilon: float, *, sample_rate: float, steps: int, delta: float
) -> Budget:
    """Return the budget with the least noise within a target epsilon.

    RDP with whole orders quickly finds a sufficient noise. PRV then finds the least
    sufficient noise, in three or four tries: epsilon falls nearly as a power of the
    noise, so a line through two tries, on logarithmic scales, leads to the next. If PRV
    fails, is too expensive or is not exact enough, RDP gives the least noise.

    Args:
        epsilon: the greatest epsilon allowed, positive.
        sample_rate: the rate of Poisson sampling, in (0, 1].
        steps: the number of steps.
        delta: the delta, in (0, 1).

    Raises:
        OptionError: an argument is out of its range, or no noise is sufficient.
        MissingExtraError: opacus is not installed.
    """
    checked = _checked(sample_rate, steps, delta)
    epsilon = number("epsilon", epsilon)
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise OptionError(f"epsilon must be positive and finite, got {epsilon}")
    return _noise_multiplier_for(epsilon, *checked)


@cache
def _noise_multiplier_for(
    epsilon: float, sample_rate: float, steps: int, delta: float
) -> Budget:
    setting = (sample_rate, steps, delta)
    best = _spent(_enough_noise(epsilon, *setting), *setting)
    if best.accountant == "rdp":
        return _least_by_rdp(epsilon, *setting, reason=best.fallback)
    if best.epsilon > epsilon:
        reason = f"PRV is not exact enough for epsilon {epsilon:g}"
        return _least_by_rdp(epsilon, *setting, reason=reason)
    aim = math.log(epsilon * (1 - _TOLERANCE / 2))
    low, high = 0.0, best.noise_multiplier
    last, between = best, high * 0.9
    for _ in range(_ATTEMPTS):
        if best.epsilon >= epsilon * (1 - _TOLERANCE):
            return best
        if high <= _SMALLEST_NOISE:
            break
        between = max(between, _SMALLEST_NOISE)
        found = _spent(between, *setting)
        if found.accountant == "prv" and found.epsilon <= epsilon:
            best, high = found, between
        else:
            low = between
        if found.accountant == "prv":
            between, last = _interpolated_noise(aim, last, found), found
        if not low < between < high:
            between = (low + high) / 2
    if high > _SMALLEST_NOISE:
        return best
    reason = f"PRV is too dear for noise below {_SMALLEST_NOISE}"
    by_rdp = _least_by_rdp(epsilon, *setting, reason=reason)
    return min(best, by_rdp, key=lambda each: each.noise_multiplier)


def _interpolated_noise(aim: float, first: Budget, second: Budget) -> float:
    """Return the noise for an epsilon, by a line through two budgets in logarithms.

    Return 0 if the budget with more noise does not have the smaller epsilon. ``aim`` is
    the logarithm of the wanted epsilon.
    """
    (x, y), (other_x, other_y) = (
        (math.log(each.noise_multiplier), math.log(max(each.epsilon, 1e-9)))
        for each in (first, second)
    )
    if (x - other_x) * (y - other_y) >= 0:
        return 0.0
    there = other_x + (aim - other_y) * (x - other_x) / (y - other_y)
    return math.exp(min(there, _LARGEST_LOGARITHM))


def _enough_noise(
    epsilon: float, sample_rate: float, steps: int, delta: float
) -> float:
    """Return a sufficient noise: by RDP, or by PRV if RDP proves no epsilon so small.

    Raises:
        OptionError: neither finds any.
    """
    setting = (sample_rate, steps, delta)
    try:
        return _enough_by_rdp(epsilon, *setting, orders=_WHOLE_ORDERS)
    except OptionError:
        low, high = 0.0, _LARGEST_NOISE
        if not _suffices(epsilon, high, setting):
            raise
    # From above: PRV is the dearer, the less noise there is.
    while low < (1 - _TOLERANCE) * high and high > _SMALLEST_NOISE:
        between = (low + high) / 2 if low else high / 2
        if _suffices(epsilon, between, setting):
            high = between
        else:
            low = between
    return high


def _suffices(epsilon: float, noise: float, setting: tuple[float, int, float]) -> bool:
    """Tell whether PRV proves an epsilon for a noise."""
    found = _spent(noise, *setting)
    return found.accountant == "prv" and found.epsilon <= epsilon


def _least_by_rdp(
    epsilon: float, sample_rate: float, steps: int, delta: float, *, reason: str | None
) -> Budget:
    """Return the least noise by RDP; ``reason`` says why it is not found by PRV."""
    noise = _enough_by_rdp(epsilon, sample_rate, steps, delta)
    found = _epsilon("rdp", noise, sample_rate, steps, delta)
    return Budget(found, delta, noise, sample_rate, steps, "rdp", reason)


def _enough_by_rdp(
    epsilon: float,
    sample_rate: float,
    steps: int,
    delta: float,
    *,
    orders: Sequence[float] | None = None,
) -> float:
    """Return a sufficient noise by RDP; ``orders`` defaults to those of Opacus."""
    require_opacus()
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: float = get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant="rdp",
                epsilon_tolerance=_TOLERANCE * epsilon,
                alphas=orders,
            )
            return found
    except ValueError as error:
        raise OptionError(
            f"no noise keeps {steps} steps with sample rate {sample_rate:g} below "
            f"epsilon {epsilon:g} at delta {delta:g}: {error}"
        ) from error


def _checked(sample_rate: float, steps: int, delta: float) -> tuple[float, int, float]:
    """Return the arguments as Python numbers, after checking their ranges."""
    sample_rate, delta = number("sample_rate", sample_rate), number("delta", delta)
    steps = whole_number("steps", steps)
    if not 0 < sample_rate <= 1:
        raise OptionError(f"sample_rate must be in (0, 1], got {sample_rate}")
    if steps < 1:
        raise OptionError(f"steps must be at least 1, got {steps}")
    if not 0 < delta < 1:
        raise OptionError(f"delta must be in (0, 1), got {delta}")
    return sample_rate, steps, delta
