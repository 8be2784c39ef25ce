"""The hook of this integration, for other plugins to implement."""

from typing import TYPE_CHECKING, Protocol

from dd_plugins.api import hookspec

if TYPE_CHECKING:
    from dd_privacy.audit.attacks import AbstractAttack

__all__ = ["RegisterAttack"]


class RegisterAttack(Protocol):
    """Offers an attack class under its ``name``."""

    def __call__(self, attack: "type[AbstractAttack]") -> None:
        """Offer the attack."""
        ...


@hookspec
def dd_register_attacks(register: RegisterAttack) -> None:
    """Offer membership-inference attacks to ``dd-plugins audit``.

    Called once for each plugin, when an attack is looked up.

    Args:
        register: called by the plugin with each attack, a record class derived from
            ``AbstractAttack``.
    """
