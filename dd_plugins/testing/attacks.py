"""The laws of attacks in an audit."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dd_plugins.runtime.randomness import generator_for
from dd_plugins.spec import Record
from dd_plugins.testing.laws import asserts
from dd_plugins.testing.toys import assert_draws_nothing_globally

__all__ = [
    "ATTACK_CHECKS",
    "check_attack_changes_no_evidence",
    "check_attack_is_a_record",
    "check_attack_scores",
]


@asserts
def check_attack_is_a_record(attack: Record) -> None:
    """An attack is decorated with ``record``, and its ``repr`` is its spec."""
    cls = type(attack)
    built = cls(**attack.options())
    assert built == attack, f"equal options must make an equal attack, got {built!r}"
    threats = ("images", "model", "both")
    threat = getattr(attack, "threat_model", None)
    assert threat in threats, f"threat_model must be one of {threats}, got {threat!r}"


@asserts
def check_attack_scores(attack: Record) -> None:
    """Scores are finite float64, one for each example, and the same at every call."""

    def score_twice() -> None:
        first, second = (_scores(attack, _evidence(attack)) for _ in range(2))
        assert torch.equal(first, second), "the same evidence must give the same scores"

    law = "an attack must leave the global random state as it was"
    assert_draws_nothing_globally(score_twice, law)


@asserts
def check_attack_changes_no_evidence(attack: Record) -> None:
    """An attack does not change its evidence: other attacks see it too."""
    given, untouched = _evidence(attack), _evidence(attack)
    _scores(attack, given)
    for number, (one, other) in enumerate(
        zip(tensors_in(given), tensors_in(untouched), strict=True)
    ):
        assert torch.equal(one, other), f"tensor {number} of the evidence was changed"


def _scores(attack: Any, evidence: Any) -> Tensor:
    found = attack.scores(evidence)
    expected = f"float64 scores of shape {tuple(evidence.labels.shape)}"
    assert isinstance(found, Tensor), f"must return {expected}, got {type(found)}"
    assert found.dtype == torch.float64, f"must return {expected}, got {found.dtype}"
    shape = tuple(found.shape)
    assert found.shape == evidence.labels.shape, f"must return {expected}, got {shape}"
    assert torch.isfinite(found).all(), "scores must be finite"
    return found


def _evidence(attack: Any) -> Any:
    """Return toy evidence, of the classes beside the attack's base class."""
    base = [cls for cls in type(attack).__mro__ if "scores" in vars(cls)][-1]
    kinds = sys.modules[base.__module__]
    generator = generator_for(0, "evidence")
    count, classes = 120, 3
    labels = torch.arange(count) % classes

    def seen(members: Tensor) -> Any:
        outputs = torch.randn(count, classes, generator=generator)
        outputs[torch.arange(count), labels] += members.float()
        distances = torch.rand(2, count, generator=generator)
        return kinds.Observations(outputs, *distances)

    runs = torch.rand(16, count, generator=generator) < 0.5
    population = torch.zeros(count, dtype=torch.bool)
    population[-20:] = True
    runs[:, -20:] = False
    known = torch.zeros(count, dtype=torch.bool)
    known[:80] = True
    return kinds.Evidence(
        seen(runs[0]),
        labels,
        known,
        runs[0] & known,
        population,
        tuple(kinds.Reference(seen(members), members) for members in runs[1:]),
    )


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of nested dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


ATTACK_CHECKS: tuple[Callable[[Any], None], ...] = (
    check_attack_is_a_record,
    check_attack_scores,
    check_attack_changes_no_evidence,
)
"""Every check of a membership-inference attack; each takes one."""
