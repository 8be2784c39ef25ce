"""The comparisons of an audited distillation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import dd_plugins
from dd_plugins import options as shared
from dd_plugins.api import OptionError, one_of
from dd_privacy.audit.choices import COMPARISONS, Comparison
from dd_privacy.audit.mechanisms.all_members import AllMembers
from dd_privacy.audit.mechanisms.base import AbstractMechanism
from dd_privacy.audit.mechanisms.distillation import Distillation
from dd_privacy.audit.mechanisms.private_training import PrivateTraining

__all__ = ["compared_with", "comparisons_of", "refuse_unused"]

_OPTIONS_OF = {"all": ("all_steps", "all_plain"), "private": ("epsilon",)}


def comparisons_of(text: str) -> list[Comparison]:
    """Return the comparisons named by ``--compare``, each once.

    Raises:
        OptionError: there is no such comparison.
    """
    names = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    return [cast(Comparison, one_of("--compare", name, COMPARISONS)) for name in names]


def refuse_unused(comparisons: Sequence[str]) -> None:
    """Refuse options of comparisons not requested on the command line.

    Raises:
        OptionError: such an option is given.
    """
    for comparison, names in _OPTIONS_OF.items():
        if comparison not in comparisons:
            for option in shared.given_on_command_line(*names):
                raise OptionError(f"{option} needs --compare {comparison}")


def compared_with(
    name: Comparison,
    audited: Distillation,
    data: dd_plugins.RealData,
    *,
    all_steps: int,
    all_plain: bool,
    members: int,
    epsilons: Sequence[float],
    delta: float,
) -> list[AbstractMechanism]:
    """Return the mechanisms of one comparison.

    Args:
        name: the name of the comparison.
        audited: the audited distillation.
        data: the data set.
        all_steps: training steps on all members.
        all_plain: whether to train on all members without augmentation.
        members: about the number of members, for the batch size of private training.
        epsilons: the epsilons of private training, a mechanism for each.
        delta: the delta of private training.

    Raises:
        OptionError: random images are asked for, and the audited ones are random
            themselves; or images from noise, and the audited ones begin as noise, or
            are not moved.
    """
    match name:
        case "all":
            return [_all_members(audited, data, all_steps, plain=all_plain)]
        case "random":
            return [_random_images(audited, data)]
        case "noise":
            return [_from_noise(audited)]
        case "private":
            return [
                PrivateTraining.at(
                    epsilon, delta, members=members, device=audited.device
                )
                for epsilon in epsilons
            ]


def _all_members(
    audited: Distillation, data: dd_plugins.RealData, steps: int, *, plain: bool
) -> AllMembers:
    """Return training of the audited distillation's network on all members."""
    name = "all members, plain" if plain else "all members"
    network = audited.resolved_network(data)
    return AllMembers(name, audited.device, network, steps, augment=not plain)


def _random_images(audited: Distillation, data: dd_plugins.RealData) -> Distillation:
    """Return a draw of as many random real images as are distilled."""
    method, drawn = (
        repr(dd_plugins.get_distiller(each))
        for each in (audited.options.distiller, "random")
    )
    if method == drawn and audited.options.parametrization == "identity":
        raise OptionError(
            f"--compare random would compare {method} with itself; leave it out"
        )
    options = replace(
        audited.options,
        distiller="random",
        steps=None,
        network=audited.resolved_network(data),
        initial_images=None,
        parametrization="identity",
    )
    return replace(audited, name="random real images", options=options)


def _from_noise(audited: Distillation) -> Distillation:
    """Return the audited distillation, begun from noise."""
    method = dd_plugins.get_distiller(audited.options.distiller)
    start = audited.options.initial_images or method.initial_images
    if start == "noise" or not method.moves_images:
        raise OptionError(
            "--compare noise needs a distiller that moves images, and does not start "
            f"from noise, got {method!r}; leave it out"
        )
    options = replace(audited.options, initial_images="noise")
    return replace(audited, name=f"{audited.name} from noise", options=options)
