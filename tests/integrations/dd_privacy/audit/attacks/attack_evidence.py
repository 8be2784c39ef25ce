"""Evidence that tests of attacks share: drawn, made by hand, and put in another order.

In the evidence by hand there are two classes, the label is always the first one, and
its confidence is the logit itself.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dd_privacy.audit.attacks import AbstractAttack, Evidence, Observations, Reference

CLASSES = 4


def evidence(
    count: int = 60, references: int = 4, gain: float = 0.0, seed: int = 0
) -> tuple[Evidence, Tensor]:
    """Return evidence in which members have a higher logit by ``gain``; and them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    population = torch.arange(count) >= count - count // 5
    ease = 2 * torch.randn(count, generator=generator)

    # Each example is a member of half of the shadow runs, as in an audit.
    ranks = torch.rand(references, count, generator=generator).argsort(dim=0)
    inside = ranks.argsort(dim=0) < references // 2

    def run(members: Tensor) -> tuple[Observations, Tensor]:
        members = members & ~population
        outputs = 0.5 * torch.randn(count, CLASSES, generator=generator)
        raised = ease + gain * members
        outputs[torch.arange(count), labels] += raised
        pixels = torch.rand(count, generator=generator) - 0.1 * gain * members
        return Observations(outputs, pixels, pixels.clone()), members

    target, members = run(torch.rand(count, generator=generator) < 0.5)
    others = [Reference(*run(inside[number])) for number in range(references)]
    known = (torch.rand(count, generator=generator) < 0.5) & ~population
    return (
        Evidence(target, labels, known, members & known, population, others, seed),
        members,
    )


def area_of(
    attack: AbstractAttack, gain: float, count: int = 600, **options: int
) -> float:
    """Return the area of an attack on drawn evidence; its scores must be finite."""
    given, members = evidence(count, gain=gain, **options)
    scored = ~given.population
    found = attack.scores(given)
    assert found.shape == (count,)
    assert found.isfinite().all()
    return float(roc_auc_score(members[scored], found[scored]))


def of_logits(logits: object) -> Observations:
    """Return observations in which the first of two classes has these log-odds."""
    own = torch.as_tensor(logits, dtype=torch.float64)
    return Observations(torch.stack([own, torch.zeros_like(own)], dim=1), own, own)


def by_hand(
    target: object,
    references: Sequence[object] = (),
    members: Sequence[Sequence[bool]] = (),
    population: Sequence[bool] | None = None,
) -> Evidence:
    """Return evidence of given log-odds, whose membership nobody knows."""
    seen = of_logits(target)
    nobody = torch.zeros(len(seen.outputs), dtype=torch.bool)
    shadows = zip(references, members, strict=True)
    return Evidence(
        seen,
        torch.zeros(len(seen.outputs), dtype=torch.int64),
        nobody,
        nobody,
        nobody if population is None else torch.tensor(population),
        [Reference(of_logits(each), torch.tensor(inside)) for each, inside in shadows],
    )


def reordered(given: Evidence, order: Tensor) -> Evidence:
    """Return the same evidence about the same examples in another order."""

    def seen(each: Observations) -> Observations:
        distances = each.pixel_distance, each.feature_distance
        return Observations(
            each.outputs[order],
            *(None if found is None else found[order] for found in distances),
        )

    masks = {
        name: getattr(given, name)[order]
        for name in ("labels", "known", "members", "population")
    }
    references = [
        Reference(seen(each.seen), each.members[order]) for each in given.references
    ]
    return replace(given, target=seen(given.target), references=references, **masks)
