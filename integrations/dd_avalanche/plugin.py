"""The plugin of this integration; importing it does not import Avalanche."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from dd_avalanche.extra import EXTRA
from dd_plugins.api import LazyCommand, hookimpl

if TYPE_CHECKING:
    from dd_plugins.api import RegisterCommand


@hookimpl
def dd_missing_extra() -> str | None:
    """Name the extra to install if Avalanche is missing."""
    return EXTRA if find_spec("avalanche") is None else None


@hookimpl
def dd_register_commands(register: "RegisterCommand") -> None:
    """Offer ``dd-plugins continual``."""
    register(
        LazyCommand(
            "continual",
            "dd_avalanche.comparison.command:continual_command",
            "Compare memories for continual learning.",
            section="Compare",
        )
    )
