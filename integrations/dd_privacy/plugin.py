"""The plugin for dd-plugins: light to import, with or without Opacus."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from dd_plugins.api import LazyCommand, hookimpl
from dd_privacy import hookspecs
from dd_privacy.extra import EXTRA

if TYPE_CHECKING:
    from dd_plugins.api import RegisterCommand, RegisterDistiller, RegisterHookspecs
    from dd_privacy.hookspecs import RegisterAttack


@hookimpl
def dd_register_hookspecs(register: "RegisterHookspecs") -> None:
    """Offer the hook for registering attacks."""
    register(hookspecs)


@hookimpl
def dd_register_attacks(register: "RegisterAttack") -> None:
    """Offer the attacks of this integration."""
    from dd_privacy.audit.attacks import BUILT_IN

    for attack in BUILT_IN:
        register(attack)


@hookimpl
def dd_register_distillers(register: "RegisterDistiller") -> None:
    """Offer the distillers whose sets are differentially private."""
    from dd_privacy.private.dp_dm import DPDM
    from dd_privacy.private.dp_frepo import DPFRePo

    register(DPFRePo)
    register(DPDM)


@hookimpl
def dd_register_commands(register: "RegisterCommand") -> None:
    """Offer ``dd-plugins audit`` and ``dd-plugins train-private``."""
    for name, target, short_help in (
        (
            "audit",
            "dd_privacy.audit.command:audit_command",
            "Measure what a set reveals about its training images.",
        ),
        (
            "train-private",
            "dd_privacy.private.command:train_private_command",
            "Train a network under differential privacy.",
        ),
    ):
        register(LazyCommand(name, target, short_help, section="Privacy"))


@hookimpl
def dd_missing_extra() -> str | None:
    """Return the name of the missing extra; None if Opacus is installed."""
    return EXTRA if find_spec("opacus") is None else None
