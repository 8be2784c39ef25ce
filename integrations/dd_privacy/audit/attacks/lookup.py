"""Attacks by their spec, over all installed plugins."""

from dd_plugins.api import get_record, record_names
from dd_privacy.audit.attacks.base import AbstractAttack

__all__ = ["HOOK", "attack_names", "get_attack"]

HOOK = "dd_register_attacks"
"""The hook for registering attacks."""


def get_attack(spec: str) -> AbstractAttack:
    """Return the attack of a spec.

    Raises:
        OptionError: the spec is malformed, or an option is out of its range.
        UnknownNameError: no plugin registers the name.
    """
    return get_record(spec, hook=HOOK, kind="attack", base=AbstractAttack)  # type: ignore[type-abstract]


def attack_names() -> list[str]:
    """Return the names of all attacks, sorted."""
    return record_names(hook=HOOK, kind="attack", base=AbstractAttack)
