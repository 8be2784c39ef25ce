"""Fresh networks for mechanisms, and how long their training takes."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

import dd_plugins
from dd_plugins.api import (
    FeatureNetwork,
    generator_for,
    recipe_for,
    resolve_device,
    resolve_precision,
    train_network,
    training_set_of,
)
from dd_privacy.audit.mechanisms.base import Release

__all__ = [
    "PROBE_STEPS",
    "fresh_network",
    "seconds_of_a_step",
    "timed",
    "trained_on",
    "training_seconds",
]

PROBE_STEPS = (2, 6)
"""Timed steps, for estimating the duration of all steps."""


Result = TypeVar("Result")


def fresh_network(
    network: str,
    image_shape: tuple[int, int, int],
    classes: int,
    seed: int,
    device: torch.device,
) -> FeatureNetwork:
    """Return a network with fresh weights on the device, in channels last."""
    built = dd_plugins.get_network(network).for_evaluation()
    return built.build(
        image_shape,
        classes,
        generator=generator_for(seed, "audited network"),
        device=device,
    )


def trained_on(
    distilled: dd_plugins.DistilledSet,
    seed: int,
    device: str,
    training_steps: int | None,
    network: str | None = None,
) -> Release:
    """Train a fresh network on a distilled set, by the protocol of its label kind."""
    target = resolve_device(device)
    channels, height, width = distilled.images.shape[1:]
    module = fresh_network(
        network or distilled.header.evaluation_network,
        (channels, height, width),
        len(distilled.header.class_names),
        seed,
        target,
    )
    recipe = recipe_for(distilled)
    if training_steps is not None:
        recipe = replace(recipe, steps=training_steps)
    train_network(
        module,
        training_set_of(distilled, device=target),
        recipe,
        generator=generator_for(seed, "audited training"),
        precision=resolve_precision("auto", target),
    )
    privacy = distilled.header.privacy
    epsilon = None if privacy is None else privacy.epsilon
    return Release(distilled, module, distilled.transform, epsilon)


def training_seconds(
    distilled: dd_plugins.DistilledSet, device: str, training_steps: int | None
) -> float:
    """Estimate how long a network trains on a set."""
    total = training_steps or recipe_for(distilled).steps
    few, more = PROBE_STEPS
    if total <= more:
        return timed(lambda: trained_on(distilled, 0, device, total))[1]
    _, short = timed(lambda: trained_on(distilled, 0, device, few))
    _, longer = timed(lambda: trained_on(distilled, 0, device, more))
    return longer + (total - more) * seconds_of_a_step(short, longer)


def seconds_of_a_step(short: float, longer: float) -> float:
    """Return the seconds of one step, from runs of each number of ``PROBE_STEPS``.

    The difference leaves out one-time work: setting up, compiling. If a busy machine
    made the short run slower than the longer one, the seconds of the longer run are
    divided by its steps. This is too much, but never 0.

    Args:
        short: seconds of the run with fewer steps.
        longer: seconds of the run with more steps.
    """
    few, more = PROBE_STEPS
    if longer > short:
        return (longer - short) / (more - few)
    return longer / more


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return the result of some work, and its duration in seconds."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started
