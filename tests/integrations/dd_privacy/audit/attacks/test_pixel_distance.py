"""The attack by the distance to the nearest released image, pixel by pixel."""

import dataclasses

import pytest
import torch
from attack_evidence import area_of, evidence

from dd_plugins.errors import OptionError
from dd_privacy.audit.attacks import Observations, PixelDistance


def test_a_score_is_the_higher_the_nearer() -> None:
    given, _ = evidence(20)
    distances = torch.linspace(2.0, 0.0, 20)
    seen = dataclasses.replace(given.target, pixel_distance=distances)
    scores = PixelDistance().scores(dataclasses.replace(given, target=seen))
    assert torch.equal(scores, -distances.double())
    assert int(scores.argmax()) == 19, "a copy has no distance"


def test_nothing_else_that_is_seen_counts() -> None:
    given, _ = evidence(20)
    seen = Observations(
        torch.zeros(20, 4),
        **{
            "pixel_distance": given.target.pixel_distance,
            "feature_distance": torch.zeros(20),
        },
    )
    found = PixelDistance().scores(
        dataclasses.replace(given, target=seen, references=())
    )
    assert torch.equal(found, PixelDistance().scores(given))


def test_it_needs_released_images() -> None:
    given, _ = evidence(20)
    hidden = Observations(
        given.target.outputs, feature_distance=given.target.feature_distance
    )
    assert PixelDistance().threat_model == "images"
    with pytest.raises(OptionError, match="pixel_distance"):
        PixelDistance().scores(dataclasses.replace(given, target=hidden))


def test_members_that_are_nearer_are_found_as_often_as_they_are_so() -> None:
    # A tenth of the gain is taken off distances that are uniform in [0, 1]: members
    # are nearer in 1 - (1 - 0.3)² / 2 of all pairs.
    assert abs(area_of(PixelDistance(), 3.0, count=4000) - (1 - 0.7**2 / 2)) < 0.02
