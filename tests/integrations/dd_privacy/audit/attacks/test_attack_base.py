"""What an attack is, and what it is given."""

import dataclasses
import sys
from typing import get_args

import pytest
import torch
from attack_evidence import evidence

import dd_plugins
from dd_privacy.audit.attacks import (
    AbstractAttack,
    AbstractModelAttack,
    Evidence,
    Loss,
    Observations,
    Reference,
    ThreatModel,
)


@dd_plugins.record
class ByLabel(AbstractModelAttack):
    """Calls examples of the last classes members."""

    name = "by_label"

    factor: float = 1.0

    def scores(self, evidence: Evidence) -> torch.Tensor:
        return self.factor * evidence.labels.double()


def test_an_attack_needs_no_shadow_runs_unless_it_says_so() -> None:
    for attack in (Loss(), ByLabel()):
        assert attack.references_needed == 0
        assert attack.learns_from_known is False
        assert attack.threat_model == "model"


def test_an_attack_of_another_package_is_a_record_of_its_options() -> None:
    attack = ByLabel(factor=2.0)
    assert repr(attack) == "by_label(factor=2.0)"
    assert attack != ByLabel()
    given, _ = evidence(20)
    assert torch.equal(attack.scores(given), 2.0 * given.labels)
    with pytest.raises((AttributeError, TypeError)):
        attack.factor = 3.0  # type: ignore[misc]


@pytest.mark.parametrize("kind", [AbstractAttack, AbstractModelAttack])
def test_an_attack_without_scores_is_none(kind: type[AbstractAttack]) -> None:
    with pytest.raises(TypeError, match="scores"):
        kind()


def test_threat_models_are_three() -> None:
    assert get_args(ThreatModel) == ("images", "model", "both")


def test_observations_of_a_model_alone_have_no_distances() -> None:
    seen = Observations(torch.zeros(2, 3))
    assert (seen.pixel_distance, seen.feature_distance) == (None, None)


def test_an_attacker_has_no_shadow_runs_unless_they_are_given() -> None:
    nobody = torch.zeros(2, dtype=torch.bool)
    seen = Observations(torch.zeros(2, 3))
    given = Evidence(seen, torch.zeros(2, dtype=torch.int64), nobody, nobody, nobody)
    assert (given.references, given.seed, given.scored) == ((), 0, None)


@pytest.mark.parametrize("kind", [Observations, Reference, Evidence])
def test_what_an_attack_is_given_cannot_be_replaced(kind: type) -> None:
    given, _ = evidence(10)
    each = {
        Observations: given.target,
        Reference: given.references[0],
        Evidence: given,
    }[kind]
    for field in dataclasses.fields(each):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(each, field.name, None)


def test_the_older_name_of_observations_is_where_the_checks_look() -> None:
    kinds = sys.modules[AbstractAttack.__module__]
    assert kinds.Seen is Observations
    assert {"Evidence", "Reference"} <= set(vars(kinds))
