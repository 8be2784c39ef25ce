"""Attacks on runs that are made by hand: groups, halves, ranks and figures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import dd_plugins
from dd_plugins.data.real import RealData
from dd_plugins.errors import OptionError
from dd_privacy.audit.attacks import (
    AbstractAttack,
    Evidence,
    Loss,
    NearestNeighbours,
    Observations,
    PixelDistance,
)
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.mechanism_audit import MechanismAudit
from dd_privacy.audit.mechanisms import AllMembers
from dd_privacy.audit.membership import Examples, Membership
from dd_privacy.audit.runs import FinishedRun

COUNT = 400


def game_data(seed: int = 0) -> RealData:
    generator = torch.Generator().manual_seed(seed)
    return RealData.from_tensors(
        torch.rand(COUNT + 40, 1, 4, 4, generator=generator),
        torch.arange(COUNT + 40) % 4,
        validation=0.1,
        preprocessing="standardize",
    )


def game(**options: Any) -> Membership:
    return membership_for_mechanism(game_data(), **{"members": 190, **options})


def finished(membership: Membership, run: int, gain: float = 3.0) -> FinishedRun:
    """Return a run in which members have a higher logit, and no distances."""
    generator = torch.Generator().manual_seed(run)
    count = len(membership)
    outputs = torch.randn(count, 4, generator=generator)
    outputs[torch.arange(count), membership.labels] += gain * membership.members(run)
    initial = torch.zeros(count, dtype=torch.bool)
    initial[membership.members(run).nonzero().flatten()[:10]] = True
    return FinishedRun(Observations(outputs), initial, None, 0.5 + run / 10, None, 2.0)


def audit_with_set(membership: Membership, epsilon: float | None) -> MechanismAudit:
    """Return an audit of one run, of random images of other data."""
    released = dd_plugins.distill(game_data(seed=1), "random", network="mlp(width=4)")
    run = replace(finished(membership, 0), distilled=released, epsilon=epsilon)
    return replace(audit_of(membership), runs=[run])


def audit_of(membership: Membership, runs: int | None = None) -> MechanismAudit:
    total = len(membership.targets) + len(membership.shadows)
    mechanism = AllMembers("all", "cpu", "mlp(width=4)")
    made = [finished(membership, run) for run in range(total if runs is None else runs)]
    return MechanismAudit(membership, mechanism, made)


@dd_plugins.record
class Given(AbstractAttack):
    """Returns what it holds, and keeps what it was given."""

    name = "given"

    @property
    def threat_model(self) -> Any:
        return "model"

    def scores(self, evidence: Evidence) -> Any:
        KEPT.append(evidence)
        return evidence.target.outputs[:, 0].round()


KEPT: list[Evidence] = []


def test_runs_are_audited_ones_then_shadow_runs() -> None:
    audit = audit_of(game(targets=2, shadows=4))
    assert (len(audit.targets), len(audit.shadows)) == (2, 4)
    summary = audit.summary()
    assert summary.accuracies == (0.5, 0.6)
    assert summary.accuracy == pytest.approx(0.55)
    assert (summary.name, summary.shadows, summary.seconds) == ("all", 4, 2.0)
    assert summary.epsilon is None
    assert summary.about["training_steps"] == 1000


def test_shadow_runs_may_be_missing_where_no_attack_needs_them() -> None:
    audit = audit_of(game(targets=2, shadows=4), runs=2)
    assert list(audit.shadows) == []
    KEPT.clear()
    audit.scores(Given())
    assert [len(evidence.references) for evidence in KEPT] == [0, 0]


def test_evidence_names_members_among_known_examples_alone() -> None:
    membership = game(targets=2, shadows=4)
    audit = audit_of(membership)
    KEPT.clear()
    audit.scores(Given())
    assert len(KEPT) == 2
    for target, evidence in enumerate(KEPT):
        assert not (evidence.members & ~evidence.known).any()
        told = membership.targets[target] & evidence.known
        assert torch.equal(evidence.members, told)
        assert not (evidence.known & evidence.population).any()
        assert 130 < int(evidence.known.sum()) < 250, "about half"
        assert len(evidence.references) == 4
        for reference, members in zip(
            evidence.references, membership.shadows, strict=True
        ):
            assert torch.equal(reference.members, members)


def test_scores_become_ranks_in_their_order_without_ties() -> None:
    membership = game()
    audit = audit_of(membership)
    (ranks,) = audit.scores(Given())
    assert sorted(ranks.tolist()) == list(range(len(membership)))
    given = finished(membership, 0).observations.outputs[:, 0].round().numpy()
    order = given[np.argsort(ranks)]
    assert (np.diff(order) >= 0).all()
    assert ranks.tolist() == audit.scores(Given())[0].tolist(), "ties by the seed"


def test_thresholds_of_a_classifier_come_from_examples_that_it_has_not_learned() -> (
    None
):
    audit = audit_of(game())
    known = audit.known
    chosen_on, counted_on = audit._halves(Loss())
    assert torch.equal(chosen_on, known)
    assert torch.equal(counted_on, ~known)
    first, second = audit._halves(NearestNeighbours())
    assert not (first & second).any()
    assert torch.equal(first | second, ~known)


def test_groups_part_the_members_and_share_the_non_members() -> None:
    membership = game(canaries=40)
    audit = audit_of(membership)
    (initial, plain), (other, same), (canaries, wrong) = (
        audit._group(group, 0)
        for group in ("initial_members", "other_members", "canaries")
    )
    members = membership.targets[0]
    assert not (initial & other | initial & canaries | other & canaries).any()
    mislabelled_initial = audit.targets[0].initial & membership.canaries
    assert torch.equal(initial | other | canaries, members)
    assert not (initial & mislabelled_initial).any()
    assert torch.equal(plain, same)
    assert not (plain & wrong).any()
    assert torch.equal(plain | wrong, ~members & ~membership.population)


def test_a_row_for_each_group_that_has_members() -> None:
    membership = game(targets=2)
    audit = audit_of(membership)
    scores = audit.scores(Loss())
    rows = audit.rows(Loss(), scores, [0.1])
    assert [row.group for row in rows] == ["initial_members", "other_members"]
    members = int(membership.targets.sum())
    assert rows[0].members == 20
    assert rows[0].members + rows[1].members == members
    others = (membership.scored & ~membership.targets).any(dim=0)
    assert rows[1].non_members == int(others.sum())
    for row in rows:
        assert (row.mechanism, row.attack, row.threat_model) == (
            "all",
            "loss",
            "model",
        )
        assert row.auc.estimate is not None
        assert row.auc.estimate > 0.9
        assert set(row.tpr_at_fpr) == {0.1}
        assert row.balanced_accuracy.estimate is not None
        assert len(row.curves) == 2
    canaries = audit_of(game(canaries=40))
    groups = [row.group for row in canaries.rows(Loss(), canaries.scores(Loss()), [])]
    assert groups == ["initial_members", "other_members", "canaries"]


def test_one_run_takes_the_attack_that_does_best_on_the_known_half() -> None:
    audit = audit_of(game())
    found = [(Given(), audit.scores(Given())), (Loss(), audit.scores(Loss()))]
    (bound,) = audit.one_run(found, 1e-5)
    assert bound.attack == "loss"
    assert bound.epsilon > 1
    assert bound.examples == int((~audit.known & audit.membership.scored[0]).sum())
    assert bound.correct <= bound.guesses <= bound.examples
    assert audit.one_run([], 1e-5) == []


def test_one_run_with_canaries_is_of_them_alone() -> None:
    audit = audit_of(game(canaries=60))
    (bound,) = audit.one_run([(Loss(), audit.scores(Loss()))], 1e-5)
    assert bound.examples == int((~audit.known & audit.membership.canaries).sum())


def test_without_coins_one_run_bounds_nothing() -> None:
    audit = audit_of(replace(game(), by_coin=False))
    assert audit.one_run([(Loss(), audit.scores(Loss()))], 1e-5) == []


def test_members_behind_a_private_set_are_not_shown() -> None:
    assert audit_with_set(game(), epsilon=None).nearest() is not None
    assert audit_with_set(game(), epsilon=1.0).nearest() is None


def test_attacks_on_images_need_images() -> None:
    audit = audit_of(game())
    with pytest.raises(OptionError, match="needs released images, got none"):
        audit.scores(PixelDistance())
    assert audit.nearest() is None


@pytest.mark.parametrize("always", [0, 37])
def test_nearest_members_are_found_some_at_a_time(
    always: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dd_privacy.audit.mechanism_audit._CHUNK", 20)
    membership = game()
    more = torch.rand(always, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    others = Examples(more, torch.zeros(always, dtype=torch.int64))
    membership = replace(membership, always=others)
    members = torch.cat([membership.images[membership.targets[0]], more])
    found = audit_with_set(membership, None).nearest()
    assert found is not None
    between = torch.cdist(members.flatten(1), members.flatten(1))
    to_members = torch.cdist(found.images.flatten(1), members.flatten(1))
    distances, indices = to_members.min(dim=1)
    assert torch.equal(found.members, members[indices])
    assert found.distances == pytest.approx(distances, abs=1e-6)
    typical = between.fill_diagonal_(torch.inf).min(dim=1).values[indices]
    assert found.typical == pytest.approx(typical, abs=1e-6)
