"""Audits of what distilled data tells of its members, and private training, by Opacus.

Importing this package needs no Opacus; training under differential privacy does, and
says so.
"""

from dd_privacy.accounting import Budget, noise_multiplier_for, spent
from dd_privacy.attacks import AbstractAttack, Evidence, Reference, Seen
from dd_privacy.audit import Audit, audit_runs, get_attack
from dd_privacy.game import Game, game_for_artifact, game_for_mechanism
from dd_privacy.mechanisms import (
    AbstractMechanism,
    AllMembers,
    Distillation,
    GivenSet,
    PrivateTraining,
)
from dd_privacy.private import PrivateModel, PrivateTrainer
from dd_privacy.report import write_report
from dd_privacy.runs import Runs, audit_folder
from dd_privacy.statistics import clopper_pearson_epsilon, one_run_epsilon
from dd_privacy.validation import privacy_obstacles

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
    "PrivateModel",
    "PrivateTrainer",
    "PrivateTraining",
    "Reference",
    "Runs",
    "Seen",
    "audit_folder",
    "audit_runs",
    "clopper_pearson_epsilon",
    "game_for_artifact",
    "game_for_mechanism",
    "get_attack",
    "noise_multiplier_for",
    "one_run_epsilon",
    "privacy_obstacles",
    "spent",
    "write_report",
]
