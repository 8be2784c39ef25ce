"""Mechanisms for audits: from members to a release."""

from dd_privacy.audit.mechanisms.all_members import AllMembers
from dd_privacy.audit.mechanisms.base import AbstractMechanism, Release
from dd_privacy.audit.mechanisms.distillation import Distillation
from dd_privacy.audit.mechanisms.given_set import GivenSet
from dd_privacy.audit.mechanisms.private_training import PrivateTraining

__all__ = [
    "AbstractMechanism",
    "AllMembers",
    "Distillation",
    "GivenSet",
    "PrivateTraining",
    "Release",
]
