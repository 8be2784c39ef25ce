"""Privacy accounting for Poisson-sampled Gaussian steps: PRV, or else RDP."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from dd_plugins.api import OptionError, number, one_line, whole_number
from dd_privacy.private.obstacles import require_opacus

__all__ = ["Accountant", "Budget", "check_delta", "noise_multiplier_for", "spent"]

Accountant = Literal["prv", "rdp"]
"""Privacy random variables (tight), or Rényi differential privacy."""

_SMALLEST_NOISE = 0.3  # below this, PRV takes minutes and gigabytes
_TOO_EXPENSIVE = f"PRV is too expensive for noise below {_SMALLEST_NOISE}"
_TOLERANCE = 0.005  # how far epsilon may stay below its target, relative to it
_MOST_TRIES = 12
_LARGEST_NOISE = 2.0**15  # tried where RDP finds no sufficient noise
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


def check_delta(delta: float, images: int) -> None:
    """Refuse a delta that protects nothing for this number of images.

    Raises:
        OptionError: delta is not less than one over the number of images.
    """
    if delta >= 1 / images:
        raise OptionError(
            f"delta must be less than 1/{images} for {images} images, got {delta:g}: "
            f"publishing a random image has a delta of 1/{images}; choose a smaller "
            f"one, such as {0.1 / images:.2g}"
        )


class _Setting(NamedTuple):
    """All that epsilon depends on beside the noise."""

    sample_rate: float
    steps: int
    delta: float


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
    setting = _checked(sample_rate, steps, delta)
    noise_multiplier = number("noise_multiplier", noise_multiplier)
    if not noise_multiplier > 0:
        raise OptionError(f"noise_multiplier must be positive, got {noise_multiplier}")
    return _spent(noise_multiplier, setting)


@cache  # called after the checks: to a cache, 1.0 and True equal 1
def _spent(noise: float, setting: _Setting) -> Budget:
    """Return the budget by PRV, or by RDP if PRV fails."""
    if noise < _SMALLEST_NOISE:
        return _spent_by_rdp(noise, setting, _TOO_EXPENSIVE)
    try:
        epsilon = _epsilon("prv", noise, setting)
    except (ArithmeticError, RuntimeError, ValueError, MemoryError) as error:
        return _spent_by_rdp(noise, setting, f"PRV failed: {one_line(error)}")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        return _spent_by_rdp(noise, setting, f"PRV gave {epsilon}")
    return Budget(
        epsilon, noise_multiplier=noise, accountant="prv", **setting._asdict()
    )


def _spent_by_rdp(noise: float, setting: _Setting, reason: str | None) -> Budget:
    """Return the budget by RDP; ``reason`` says why it is not by PRV."""
    return Budget(
        _epsilon("rdp", noise, setting),
        noise_multiplier=noise,
        accountant="rdp",
        fallback=reason,
        **setting._asdict(),
    )


def _epsilon(accountant: Accountant, noise: float, setting: _Setting) -> float:
    require_opacus()
    from opacus.accountants import create_accountant

    found = create_accountant(accountant)
    found.history = [(noise, setting.sample_rate, setting.steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RDP warns that its orders could be finer
        return float(found.get_epsilon(setting.delta))


def noise_multiplier_for(
    epsilon: float, *, sample_rate: float, steps: int, delta: float
) -> Budget:
    """Return the budget with the least noise within a target epsilon.

    RDP quickly finds a sufficient noise. PRV, which is tighter, then lowers it to the
    least sufficient noise in three or four tries. If PRV fails, is too expensive or is
    not exact enough, RDP gives the least noise.

    Args:
        epsilon: the greatest epsilon allowed, positive.
        sample_rate: the rate of Poisson sampling, in (0, 1].
        steps: the number of steps.
        delta: the delta, in (0, 1).

    Raises:
        OptionError: an argument is out of its range, or no noise is sufficient.
        MissingExtraError: opacus is not installed.
    """
    setting = _checked(sample_rate, steps, delta)
    epsilon = number("epsilon", epsilon)
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise OptionError(f"epsilon must be positive and finite, got {epsilon}")
    return _noise_multiplier_for(epsilon, setting)


@cache
def _noise_multiplier_for(epsilon: float, setting: _Setting) -> Budget:
    sufficient = _spent(_sufficient_noise(epsilon, setting), setting)
    if sufficient.accountant == "rdp":
        return _least_by_rdp(epsilon, setting, sufficient.fallback)
    if sufficient.epsilon > epsilon:
        reason = f"PRV is not exact enough for epsilon {epsilon:g}"
        return _least_by_rdp(epsilon, setting, reason)
    least = _least_by_prv(epsilon, setting, sufficient)
    if _is_close(least, epsilon) or least.noise_multiplier > _SMALLEST_NOISE:
        return least
    # Less noise than PRV can take is sufficient; RDP may prove it.
    by_rdp = _least_by_rdp(epsilon, setting, _TOO_EXPENSIVE)
    return min(least, by_rdp, key=lambda budget: budget.noise_multiplier)


def _least_by_prv(epsilon: float, setting: _Setting, sufficient: Budget) -> Budget:
    """Lower a sufficient noise until the epsilon by PRV is close to its target.

    Epsilon falls nearly as a power of the noise: a line through two tries, on
    logarithmic scales, leads to the next. Where it leads out of the interval that must
    hold the least noise, the interval is halved. The search ends early at the smallest
    noise for PRV.
    """
    too_little = 0.0
    previous, noise = sufficient, sufficient.noise_multiplier * 0.9
    for _ in range(_MOST_TRIES):
        if (
            _is_close(sufficient, epsilon)
            or sufficient.noise_multiplier <= _SMALLEST_NOISE
        ):
            break
        noise = max(noise, _SMALLEST_NOISE)
        tried = _spent(noise, setting)
        if _is_proved(tried, epsilon):
            sufficient = tried
        else:
            too_little = noise
        if tried.accountant == "prv":
            aim = epsilon * (1 - _TOLERANCE / 2)
            noise, previous = _interpolated_noise(aim, previous, tried), tried
        if not too_little < noise < sufficient.noise_multiplier:
            noise = (too_little + sufficient.noise_multiplier) / 2
    return sufficient


def _is_close(budget: Budget, epsilon: float) -> bool:
    """Tell whether a budget leaves nearly nothing of its target unspent."""
    return budget.epsilon >= epsilon * (1 - _TOLERANCE)


def _is_proved(budget: Budget, epsilon: float) -> bool:
    """Tell whether PRV proves that a budget is within an epsilon."""
    return budget.accountant == "prv" and budget.epsilon <= epsilon


def _interpolated_noise(epsilon: float, first: Budget, second: Budget) -> float:
    """Return the noise for an epsilon, by a line through two budgets in logarithms.

    Return 0 if the budget with more noise does not have the smaller epsilon.
    """
    (noise_1, epsilon_1), (noise_2, epsilon_2) = (
        (math.log(each.noise_multiplier), math.log(max(each.epsilon, 1e-9)))
        for each in (first, second)
    )
    if (noise_1 - noise_2) * (epsilon_1 - epsilon_2) >= 0:
        return 0.0
    change = (math.log(epsilon) - epsilon_2) * (noise_1 - noise_2)
    found = noise_2 + change / (epsilon_1 - epsilon_2)
    return math.exp(min(found, _LARGEST_LOGARITHM))


def _sufficient_noise(epsilon: float, setting: _Setting) -> float:
    """Return a sufficient noise: by RDP, or by PRV if RDP proves no epsilon so small.

    Raises:
        OptionError: neither finds any.
    """
    try:
        return _noise_by_rdp(epsilon, setting, orders=_WHOLE_ORDERS)
    except OptionError:
        if not _is_proved(_spent(_LARGEST_NOISE, setting), epsilon):
            raise
    # Search downwards: PRV takes longer the smaller the noise.
    too_little, sufficient = 0.0, _LARGEST_NOISE
    while too_little < (1 - _TOLERANCE) * sufficient and sufficient > _SMALLEST_NOISE:
        noise = (too_little + sufficient) / 2
        if _is_proved(_spent(noise, setting), epsilon):
            sufficient = noise
        else:
            too_little = noise
    return sufficient


def _least_by_rdp(epsilon: float, setting: _Setting, reason: str | None) -> Budget:
    """Return the least noise by RDP; ``reason`` says why it is not found by PRV."""
    return _spent_by_rdp(_noise_by_rdp(epsilon, setting), setting, reason)


def _noise_by_rdp(
    epsilon: float, setting: _Setting, *, orders: Sequence[float] | None = None
) -> float:
    """Return a sufficient noise by RDP; ``orders`` defaults to those of Opacus."""
    require_opacus()
    from opacus.accountants.utils import get_noise_multiplier

    sample_rate, steps, delta = setting
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


def _checked(sample_rate: float, steps: int, delta: float) -> _Setting:
    """Return the arguments as Python numbers, after checking their ranges."""
    sample_rate, delta = number("sample_rate", sample_rate), number("delta", delta)
    steps = whole_number("steps", steps)
    if not 0 < sample_rate <= 1:
        raise OptionError(f"sample_rate must be in (0, 1], got {sample_rate}")
    if steps < 1:
        raise OptionError(f"steps must be at least 1, got {steps}")
    if not 0 < delta < 1:
        raise OptionError(f"delta must be in (0, 1), got {delta}")
    return _Setting(sample_rate, steps, delta)
