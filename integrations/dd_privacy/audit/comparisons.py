"""The comparisons of an audited distillation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dd_plugins
from dd_plugins import options as shared
from dd_plugins.api import OptionError, one_of
from dd_privacy.audit.choices import COMPARISONS
from dd_privacy.audit.mechanisms.all_members import AllMembers
from dd_privacy.audit.mechanisms.base import AbstractMechanism
from dd_privacy.audit.mechanisms.distillation import Distillation
from dd_privacy.audit.mechanisms.private_training import PrivateTraining

__all__ = ["compared_with", "comparisons_of", "refuse_unused"]

_OPTIONS_OF = {"all": ("all_steps", "all_plain"), "private": ("epsilon",)}


def comparisons_of(text: str) -> list[str]:
    """Return the comparisons named by ``--compare``, each once.

    Raises:
        OptionError: there is no such comparison.
    """
    names = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    return [one_of("--compare", name, COMPARISONS) for name in names]


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
    name: str,
    audited: Distillation,
    data: dd_plugins.RealData,
    options: dict[str, Any],
    epsilons: Sequence[float],
    delta: float,
) -> list[AbstractMechanism]:
    """Return the mechanisms of one comparison.

    They train the network of the audited distillation; only private training has a
    network of its own, its trainer's.

    Args:
        name: one of :data:`~dd_privacy.audit.choices.COMPARISONS`.
        audited: the audited distillation.
        data: the data set.
        options: options of the command line.
        epsilons: the epsilons of private training, a mechanism for each.
        delta: the delta of private training.
    """
    match name:
        case "all":
            plain, steps = options["all_plain"], options["all_steps"]
            kind = "all members, plain" if plain else "all members"
            network = audited.resolved_network(data)
            return [AllMembers(kind, audited.device, network, steps, augment=not plain)]
        case "random":
            return [
                replace(
                    audited,
                    name="random real images",
                    options=replace(
                        audited.options,
                        distiller="random",
                        steps=None,
                        network=audited.resolved_network(data),
                        initial_images=None,
                        parametrization="identity",
                    ),
                )
            ]
        case "noise":
            return [
                replace(
                    audited,
                    name=f"{audited.name} from noise",
                    options=replace(audited.options, initial_images="noise"),
                )
            ]
    return [
        PrivateTraining.at(
            epsilon, delta, members=options["members"], device=audited.device
        )
        for epsilon in epsilons
    ]
