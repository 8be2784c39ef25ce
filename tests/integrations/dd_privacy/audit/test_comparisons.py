"""What an audited distillation is compared with."""

import re
from dataclasses import replace
from typing import Any

import pytest
from privacy_data import MLP, noisy_data

from dd_plugins.api import RunOptions
from dd_plugins.errors import OptionError
from dd_privacy.audit.choices import COMPARISONS, Comparison
from dd_privacy.audit.comparisons import compared_with, comparisons_of
from dd_privacy.audit.mechanisms import (
    AbstractMechanism,
    AllMembers,
    Distillation,
    PrivateTraining,
)

AUDITED = Distillation(
    "mine",
    "cpu",
    RunOptions(
        distiller="frepo(pool_size=1)",
        images_per_class=3,
        steps=7,
        network=MLP,
        initial_images="herding",
    ),
    training_steps=11,
)


def of(name: Comparison, audited: Distillation = AUDITED, **options: Any) -> Any:
    given = {"all_plain": False, "all_steps": 20, "members": 400, **options}
    found: list[AbstractMechanism] = compared_with(
        name, audited, noisy_data(100), **given, epsilons=[1.0, 8.0], delta=1e-6
    )
    assert {each.device for each in found} == {"cpu"}
    return found


def test_names_are_those_of_the_option_each_once() -> None:
    assert comparisons_of("") == []
    assert comparisons_of("noise, all,noise,") == ["noise", "all"]
    assert tuple(comparisons_of(",".join(COMPARISONS))) == COMPARISONS
    with pytest.raises(OptionError, match="all, random, noise, private, got 'magic'"):
        comparisons_of("all,magic")


def test_all_members_train_the_network_that_is_distilled_on() -> None:
    (augmented,) = of("all")
    assert augmented == AllMembers("all members", "cpu", MLP, 20, augment=True)
    (plain,) = of("all", all_plain=True)
    assert plain == AllMembers("all members, plain", "cpu", MLP, 20, augment=False)


def test_random_images_are_as_many_and_on_the_same_network() -> None:
    (random,) = of("random")
    assert random.name == "random real images"
    asked = random.options
    assert (asked.distiller, asked.images_per_class, asked.network) == (
        "random",
        3,
        MLP,
    )
    assert (asked.steps, asked.initial_images) == (None, None)
    assert random.training_steps == 11
    default = Distillation("mine", "cpu", RunOptions(distiller="frepo(pool_size=1)"))
    (random,) = of("random", default)
    assert random.options.network == default.resolved_network(noisy_data(100))


def test_random_images_are_not_compared_with_themselves() -> None:
    drawn = RunOptions(distiller="random")
    with pytest.raises(OptionError, match=r"would compare random with itself"):
        of("random", Distillation("mine", "cpu", drawn))
    packed = replace(drawn, parametrization="packed(factor=2)")
    (random,) = of("random", Distillation("mine", "cpu", packed))
    assert random.options.parametrization == "identity"


def test_from_noise_all_else_is_the_same() -> None:
    (noise,) = of("noise")
    assert noise.name == "mine from noise"
    assert noise.options == replace(AUDITED.options, initial_images="noise")
    assert noise.training_steps == AUDITED.training_steps


@pytest.mark.parametrize(
    ("distiller", "initial_images"),
    [("random", None), ("dp_dm(1.0)", None), ("dm", "noise")],
)
def test_noise_is_no_comparison_for_what_it_does_not_change(
    distiller: str, initial_images: str | None
) -> None:
    options = RunOptions(distiller=distiller, initial_images=initial_images)
    message = f"--compare noise needs .* got {re.escape(distiller)}"
    with pytest.raises(OptionError, match=message):
        of("noise", Distillation("mine", "cpu", options))


def test_public_images_are_compared_with_noise() -> None:
    options = RunOptions(distiller="dp_dm(epsilon=1.0, public='digits')")
    (noise,) = of("noise", Distillation("mine", "cpu", options))
    assert noise.options.initial_images == "noise"


def test_private_training_is_at_each_epsilon() -> None:
    first, second = of("private")
    assert isinstance(first, PrivateTraining)
    assert [first.name, second.name] == ["DP-SGD, epsilon 1", "DP-SGD, epsilon 8"]
    assert [each.trainer.epsilon for each in (first, second)] == [1.0, 8.0]
    assert first.trainer.delta == 1e-6
    assert first.trainer.batch_size == 50, "an eighth of the members"
    (small, _) = of("private", members=3)
    assert small.trainer.batch_size == 1
    (large, _) = of("private", members=100_000)
    assert large.trainer.batch_size == 512, "the default"
