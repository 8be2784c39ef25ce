"""Privacy of distilled data: membership audits, and private training.

Importing this package and auditing do not need Opacus. Training and distillation under
differential privacy do, and fail without it.
"""

from typing import TYPE_CHECKING

from dd_plugins.api import lazy_names

if TYPE_CHECKING:
    from dd_privacy.audit import (
        AbstractAttack,
        AbstractMechanism,
        AllMembers,
        Audit,
        Distillation,
        Evidence,
        GivenSet,
        Membership,
        Observations,
        PrivateTraining,
        Reference,
        Release,
        Runs,
        audit_folder,
        audit_runs,
        clopper_pearson_epsilon,
        get_attack,
        membership_for_artifact,
        membership_for_mechanism,
        one_run_epsilon,
        write_report,
    )

    # Older names, kept for code that imports them.
    from dd_privacy.audit import Membership as Game
    from dd_privacy.audit import Observations as Seen
    from dd_privacy.audit import membership_for_artifact as game_for_artifact
    from dd_privacy.audit import membership_for_mechanism as game_for_mechanism
    from dd_privacy.private import (
        Budget,
        PrivateModel,
        PrivateTrainer,
        noise_multiplier_for,
        privacy_obstacles,
        spent,
    )
else:
    __getattr__ = lazy_names(__name__)

__all__ = [
    "AbstractAttack",
    "AbstractMechanism",
    "AllMembers",
    "Audit",
    "Budget",
    "Distillation",
    "Evidence",
    "Game",
    "GivenSet",
    "Membership",
    "Observations",
    "PrivateModel",
    "PrivateTrainer",
    "PrivateTraining",
    "Reference",
    "Release",
    "Runs",
    "Seen",
    "audit_folder",
    "audit_runs",
    "clopper_pearson_epsilon",
    "game_for_artifact",
    "game_for_mechanism",
    "get_attack",
    "membership_for_artifact",
    "membership_for_mechanism",
    "noise_multiplier_for",
    "one_run_epsilon",
    "privacy_obstacles",
    "spent",
    "write_report",
]
