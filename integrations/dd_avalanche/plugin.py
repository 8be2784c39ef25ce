"""The plugin that dd-plugins loads: light, with or without Avalanche."""

from importlib.util import find_spec

from dd_avalanche.replay.conversion import EXTRA
from dd_plugins.api import RegisterCommand, hookimpl


@hookimpl
def dd_missing_extra() -> str | None:
    """Name the extra, if Avalanche is not installed."""
    return EXTRA if find_spec("avalanche") is None else None


@hookimpl
def dd_register_commands(register: RegisterCommand) -> None:
    """Offer ``dd-plugins continual``."""
    from dd_avalanche.comparison.command import continual_command

    register(continual_command)
