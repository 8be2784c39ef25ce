"""Confidences and distances against scipy, in float64."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from attack_evidence import CLASSES, evidence
from scipy import special

from dd_plugins.errors import OptionError
from dd_privacy.audit.attacks import Observations, confidence, probabilities
from dd_privacy.audit.attacks.signals import TINY, Signal, signal_of


def outputs(count: int = 50, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        3 * torch.randn(count, CLASSES, generator=generator),
        torch.randint(CLASSES, (count,), generator=generator),
    )


def test_confidence_is_the_log_odds_of_the_class() -> None:
    logits, labels = outputs()
    p = special.softmax(logits.double().numpy(), axis=1)[np.arange(50), labels.numpy()]
    found = confidence(logits, labels)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, special.logit(p), rtol=1e-10)


def test_confidence_loses_nothing_where_the_model_is_sure() -> None:
    logits = torch.tensor([[800.0, 0.0, -5.0], [0.0, 900.0, 0.0]])
    found = confidence(logits, torch.tensor([0, 2]))
    assert found.tolist() == pytest.approx([800 - math.log(1 + math.exp(-5)), -900])


def test_confidence_in_one_of_two_classes_is_the_difference_of_logits() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.25, 0.5]], dtype=torch.float64)
    first, second = (
        confidence(logits, torch.full((2,), label, dtype=torch.int64))
        for label in (0, 1)
    )
    assert first.tolist() == pytest.approx([3.0, -0.25])
    assert torch.equal(first, -second)


def test_what_all_logits_share_does_not_count() -> None:
    logits, labels = outputs()
    shifted = logits.double() + torch.linspace(-40, 40, 50)[:, None]
    torch.testing.assert_close(
        confidence(shifted, labels), confidence(logits, labels), rtol=0, atol=1e-10
    )


def test_confidence_is_finite_with_one_class_and_with_logits_beyond_all() -> None:
    alone = confidence(torch.tensor([[3.0], [-3.0]]), torch.zeros(2, dtype=torch.int64))
    assert alone.tolist() == [1e6, 1e6], "of one class a model is always sure"
    far = torch.tensor([[3e38, 0.0], [-3e38, 0.0]])
    found = confidence(far, torch.zeros(2, dtype=torch.int64))
    assert found.tolist() == [1e6, -1e6]


def test_probabilities_are_those_of_scipy_in_float64() -> None:
    logits, _ = outputs()
    found = probabilities(logits)
    assert found.dtype == torch.float64
    wanted = special.softmax(logits.double().numpy(), axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert math.log(TINY) > -30


def test_a_signal_is_one_of_three() -> None:
    given, _ = evidence(20)
    target = given.target
    assert get_args(Signal) == ("confidence", "pixel_distance", "feature_distance")
    changed = Observations(target.outputs, target.pixel_distance, torch.ones(20))
    found = {each: signal_of(changed, given.labels, each) for each in get_args(Signal)}
    wanted = confidence(target.outputs, given.labels)
    assert torch.equal(found["confidence"], wanted)
    assert target.pixel_distance is not None
    assert torch.equal(found["pixel_distance"], target.pixel_distance.double())
    assert found["feature_distance"].tolist() == [1.0] * 20
    assert {each.dtype for each in found.values()} == {torch.float64}


@pytest.mark.parametrize("signal", ["pixel_distance", "feature_distance"])
def test_a_distance_to_images_that_are_not_released_is_refused(signal: Any) -> None:
    given, _ = evidence(20)
    hidden = Observations(given.target.outputs)
    with pytest.raises(OptionError, match=signal):
        signal_of(hidden, given.labels, signal)
