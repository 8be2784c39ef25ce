"""The architectures that took part in a set: none of them is held out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.errors import OptionError, UnknownNameError
from dd_plugins.evaluation.method_of_set import distiller_of
from dd_plugins.evaluation.transfer_results import Role
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.spec import Call, parse
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.header import Header

__all__ = ["Architectures", "architectures_of"]


@dataclass(frozen=True)
class Architectures:
    """The architectures that took part in a set, by name.

    Attributes:
        own: the one the set was distilled with; empty if no network shaped it.
        others: all others: those of pools and wrappers, of teachers, and of the sets it
            was made from.
    """

    own: str
    others: frozenset[str]

    def role(self, network: AbstractNetwork) -> Role:
        """Return the role of a network's architecture for the set."""
        if network.architecture == self.own:
            return "distilled with"
        return "seen" if network.architecture in self.others else "held out"


def architectures_of(
    distilled: DistilledSet,
    distiller: Callable[[str], AbstractDistiller[Any]],
    network: Callable[[str], AbstractNetwork],
) -> Architectures:
    """Return the architectures that took part in a set.

    These are the architectures built during its run, those declared by its method, and
    those of teachers added later. The same holds for every context behind the set.

    Args:
        distilled: the set.
        distiller: returns the distiller of a spec.
        network: returns the network of a spec.
    """
    newest, *older = distilled.header.lineage
    took_part, own = _of_header(newest, distiller, network)
    for header in older:
        earlier, before = _of_header(header, distiller, network)
        took_part |= earlier | {before}
    return Architectures(own, frozenset(took_part - {own, ""}))


def _of_header(
    header: Header,
    distiller: Callable[[str], AbstractDistiller[Any]],
    network: Callable[[str], AbstractNetwork],
) -> tuple[set[str], str]:
    """Return all architectures of one header, and the one distilled with, if any."""
    own = _name(header.evaluation_network, network)
    took_part = set(header.architectures or ())
    method = distiller_of(header, distiller)
    shaped = own in took_part
    if method is None:  # its spec alone is known
        shaped = True
        took_part |= set(_networks_in(parse(header.distiller), network))
    else:
        shaped |= method.uses_network
        took_part |= {each.architecture for each in method.architectures}
    if header.views is not None:
        took_part |= {_name(each.network, network) for each in header.views.teachers}
    return took_part, own if shaped else ""


def _networks_in(
    value: object, network: Callable[[str], AbstractNetwork]
) -> Iterator[str]:
    """Yield the architectures named anywhere in a parsed spec."""
    if isinstance(value, tuple):
        for each in value:
            yield from _networks_in(each, network)
    if isinstance(value, Call):
        try:
            yield network(value.name).architecture
        except UnknownNameError:  # no network: a distiller, say
            yield from _networks_in(value.arguments, network)
            yield from _networks_in(tuple(value.options.values()), network)
        except OptionError:  # it lacks a required option, such as the model of timm
            given = ", ".join(map(repr, value.arguments))
            yield _name(f"{value.name}({given})", network)


def _name(spec: str, network: Callable[[str], AbstractNetwork]) -> str:
    """Return the architecture of a spec; its bare name if it cannot be built here."""
    try:
        return network(spec).architecture
    except (UnknownNameError, OptionError):
        return parse(spec).name
