"""What an attack by the distance to the nearest released image must do."""

import dataclasses

import pytest
import torch
from attack_evidence import area_of, evidence

from dd_plugins.errors import OptionError
from dd_privacy.audit.attacks import AbstractAttack, Observations


def a_score_is_the_higher_the_nearer(attack: AbstractAttack, other: str) -> None:
    del other
    given, _ = evidence(20)
    distances = torch.linspace(2.0, 0.0, 20)
    seen = dataclasses.replace(given.target, **{attack.name: distances})
    scores = attack.scores(dataclasses.replace(given, target=seen))
    assert torch.equal(scores, -distances.double())
    assert int(scores.argmax()) == 19, "a copy has no distance"


def nothing_else_that_is_seen_counts(attack: AbstractAttack, other: str) -> None:
    given, _ = evidence(20)
    own = {attack.name: getattr(given.target, attack.name), other: torch.zeros(20)}
    seen = Observations(torch.zeros(20, 4), **own)
    found = attack.scores(dataclasses.replace(given, target=seen, references=()))
    assert torch.equal(found, attack.scores(given))


def it_needs_released_images(attack: AbstractAttack, other: str) -> None:
    given, _ = evidence(20)
    left = {other: getattr(given.target, other)}
    hidden = Observations(given.target.outputs, **left)
    assert attack.threat_model == "images"
    with pytest.raises(OptionError, match=attack.name):
        attack.scores(dataclasses.replace(given, target=hidden))


def nearer_members_are_found_as_often_as_they_are_so(
    attack: AbstractAttack, other: str
) -> None:
    del other
    # A tenth of the gain is taken off distances that are uniform in [0, 1]: members
    # are nearer in 1 - (1 - 0.3)² / 2 of all pairs.
    assert abs(area_of(attack, 3.0, count=4000) - (1 - 0.7**2 / 2)) < 0.02


DISTANCE_LAWS = (
    a_score_is_the_higher_the_nearer,
    nothing_else_that_is_seen_counts,
    it_needs_released_images,
    nearer_members_are_found_as_often_as_they_are_so,
)
