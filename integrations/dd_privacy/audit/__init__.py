"""Membership audits of mechanisms. They need no Opacus."""

from typing import TYPE_CHECKING

from dd_plugins.api import lazy_names

if TYPE_CHECKING:
    from dd_privacy.audit.attacks import (
        AbstractAttack,
        Evidence,
        Observations,
        Reference,
        attack_names,
        get_attack,
    )
    from dd_privacy.audit.audit import audit_runs
    from dd_privacy.audit.drawing import (
        membership_for_artifact,
        membership_for_mechanism,
    )
    from dd_privacy.audit.mechanisms import (
        AbstractMechanism,
        AllMembers,
        Distillation,
        GivenSet,
        PrivateTraining,
        Release,
    )
    from dd_privacy.audit.membership import Membership
    from dd_privacy.audit.report import write_report
    from dd_privacy.audit.results import Audit
    from dd_privacy.audit.runs import Runs, audit_folder
    from dd_privacy.audit.statistics import clopper_pearson_epsilon, one_run_epsilon
else:
    __getattr__ = lazy_names(__name__)

__all__ = [
    "AbstractAttack",
    "AbstractMechanism",
    "AllMembers",
    "Audit",
    "Distillation",
    "Evidence",
    "GivenSet",
    "Membership",
    "Observations",
    "PrivateTraining",
    "Reference",
    "Release",
    "Runs",
    "attack_names",
    "audit_folder",
    "audit_runs",
    "clopper_pearson_epsilon",
    "get_attack",
    "membership_for_artifact",
    "membership_for_mechanism",
    "one_run_epsilon",
    "write_report",
]
