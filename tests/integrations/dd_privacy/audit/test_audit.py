"""Audits find planted leaks, and find nothing where there is nothing."""

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from privacy_data import MLP, audited, distillation, figures, noisy_data, rare_data

import dd_plugins
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, OptionError
from dd_privacy.audit.attacks import AbstractAttack, Evidence, get_attack
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_artifact, membership_for_mechanism
from dd_privacy.audit.mechanisms import AllMembers, GivenSet, Release
from dd_privacy.audit.membership import Membership
from dd_privacy.audit.report import write_report
from dd_privacy.audit.runs import Runs


def test_released_members_are_found_by_their_distance(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(5000), members=2200)
    copies = distillation("copies", 25, training_steps=5)
    found = figures(
        audit_runs(Runs(membership, tmp_path), [copies], ["pixel_distance", "loss"])
    )
    row = found["copies", "pixel_distance", "initial_members"]
    assert row.members == 100
    rate = row.tpr_at_fpr[0.01]
    assert rate.estimate is not None
    assert rate.ci95 is not None
    assert rate.estimate >= 0.95
    assert rate.ci95[0] > 0.9
    assert row.auc.estimate == 1.0
    others = found["copies", "pixel_distance", "other_members"]
    assert others.auc.ci95 is not None
    assert others.auc.ci95[0] < 0.5 < others.auc.ci95[1]


def test_a_model_that_learns_its_members_by_heart_is_found_out(tmp_path: Path) -> None:
    data = noisy_data(2600, hard=0.4)
    membership = membership_for_mechanism(data, members=1150, canaries=200, shadows=8)
    model = AllMembers("all", "cpu", "mlp(width=128)", 400)
    audit = audit_runs(
        Runs(membership, tmp_path), [model], ["loss", "lira", "rmia", "pixel_distance"]
    )
    found = figures(audit)
    loss, lira, rmia = (
        found["all", attack, "other_members"] for attack in ("loss", "lira", "rmia")
    )
    for row in (lira, rmia):
        assert row.auc.ci95 is not None
        assert row.auc.ci95[0] > 0.5, "the interval is above chance"
        rates = row.tpr_at_fpr[0.01], loss.tpr_at_fpr[0.01]
        assert rates[0].ci95 is not None
        assert rates[0].ci95[0] > 0.01
        assert rates[0].estimate > 2 * rates[1].estimate  # type: ignore[operator]
    canaries = found["all", "lira", "canaries"]
    assert canaries.auc.ci95 is not None
    assert canaries.auc.ci95[0] > 0.9
    (bound,) = audit.one_run  # by the attack that did best on the other half
    assert bound.attack in ("loss", "lira", "rmia")
    assert bound.epsilon > 1, "this model has no guarantee of epsilon 1"
    reason = "threat model 'images' needs released images, got none"
    assert audit.skipped == (("all", "pixel_distance", reason),)
    assert audit.mechanisms[0].accuracy is not None


def test_nothing_is_found_where_membership_is_a_coin(tmp_path: Path) -> None:
    data = noisy_data(600)
    released = dd_plugins.distill(data, "random", images_per_class=2, network=MLP)
    given = GivenSet("given", "cpu", released, 10)
    attacks = ["loss", "pixel_distance", "logistic_regression", "nearest_neighbours"]
    audits = 24
    held: Counter[tuple[str, str]] = Counter()
    refuted = 0
    for seed in range(audits):
        membership = membership_for_mechanism(data, members=280, seed=seed)
        found = audit_runs(Runs(membership, tmp_path), [given], attacks)
        # The images are those of the first members in the data, not in this membership.
        for row in found.rows:
            for name, figure, chance in (
                ("auc", row.auc, 0.5),
                ("advantage", row.advantage, 0.0),
                ("rate 0", row.tpr_at_fpr[0.0], 1 / 120),
            ):
                assert figure.ci95 is not None
                held[row.attack, name] += figure.ci95[0] <= chance <= figure.ci95[1]
        (bound,) = found.one_run
        refuted += bound.epsilon > 0
    assert len(held) == 3 * len(attacks)
    # For one figure, 19 of 24 or fewer would happen once in 160 times.
    assert min(held.values()) > 19, held
    assert refuted <= 4, "a bound above 0 is wrong in one of twenty audits"


@dataclass(frozen=True)
class Blind(AllMembers):
    """Trains on images that are nobody's, in place of its members."""

    def run(self, data: RealData, seed: int, folder: Path | None = None) -> Release:
        return super().run(noisy_data(40, seed=1), seed, folder)

    def expected_seconds(self, data: RealData) -> float:
        return 10.0 * torch.get_num_threads()


def test_shadow_runs_and_classifiers_find_nothing_in_blind_runs(tmp_path: Path) -> None:
    data = noisy_data(600)
    blind = Blind("blind", "cpu", MLP, 1)
    attacks = [
        *("lira", "lira(online=False)", "rmia", "entropy", "modified_entropy"),
        *("random_forest(trees=10)", "multilayer_perceptron"),
    ]
    held: Counter[tuple[str, str]] = Counter()
    refuted, widest = 0, 0.0
    for seed in range(12):
        membership = membership_for_mechanism(data, members=280, shadows=4, seed=seed)
        found = audit_runs(Runs(membership, tmp_path), [blind], attacks, rates=[0.1])
        for row in found.rows:
            for name, figure, chance in (
                ("auc", row.auc, 0.5),
                ("advantage", row.advantage, 0.0),
                ("rate 0.1", row.tpr_at_fpr[0.1], 0.1),
            ):
                assert figure.ci95 is not None
                held[row.attack, name] += figure.ci95[0] <= chance <= figure.ci95[1]
                widest = max(widest, figure.ci95[1] - figure.ci95[0])
        (bound,) = found.one_run
        refuted += bound.epsilon > 0
    assert len(held) == 3 * len(attacks)
    # For one figure, 8 of 12 or fewer would happen once in 400 times.
    assert min(held.values()) > 8, held
    assert widest < 0.6, "an interval that says nothing holds always"
    assert refuted <= 2


def test_estimate_is_of_processes_side_by_side(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(300), members=120, targets=4)
    blind = Blind("blind", "cpu", MLP, 1)
    plans = []
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for processes in (1, 2, 8):
            runs = Runs(membership, tmp_path / str(processes))
            with contextlib.suppress(InterruptedError):
                audit_runs(
                    runs,
                    [blind],
                    ["loss"],
                    processes=processes,
                    on_plan=lambda *plan: plans.append(plan),
                    on_progress=_stop,
                )
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)
    # Four runs: of four threads each, of two by two, all at once of one.
    assert plans == [(4, 4, 160.0), (4, 4, 40.0), (4, 4, 10.0)]


def _stop(done: int, total: int) -> None:
    raise InterruptedError


def test_artifact_is_audited_against_its_own_members(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    made = dd_plugins.distill(
        data, "frepo(pool_size=1)", images_per_class=2, steps=2, network=MLP
    )
    initial = torch.tensor(made.header.initial_indices)
    membership = membership_for_artifact(data, initial, members=300, shadows=2)
    given = GivenSet("given", "cpu", made, 5)
    audit = audit_runs(Runs(membership, tmp_path), [given], ["pixel_distance"])
    found = figures(audit)
    row = found["given", "pixel_distance", "initial_members"]
    assert row.members == 20
    assert row.auc.estimate is not None
    assert row.auc.estimate > 0.95, "after two steps the images are still theirs"
    assert audit.one_run == (), "membership was not by coin"


def test_images_of_comparisons_are_not_shown(tmp_path: Path) -> None:
    runs = Runs(membership_for_mechanism(noisy_data(300), members=120), tmp_path)
    mechanisms = [AllMembers("all", "cpu", MLP, 1), distillation("mine")]
    assert audit_runs(runs, mechanisms, ["loss"]).shown is None
    assert audit_runs(runs, mechanisms[1:], ["loss"]).shown is not None


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    data = noisy_data(400)
    for options, message in (
        ({"members": 300}, "need 600 training images, 'noisy' has 380"),
        ({"members": 0}, "must be at least 1"),
        ({"members": 100, "canaries": 101}, "canaries must be between 0 and"),
        ({"members": 100, "shadows": 1}, "shadows must be 0, or 2 or more"),
        ({"members": 100, "canaries": 5, "non_members": "test"}, "canaries are"),
    ):
        with pytest.raises(OptionError, match=message):
            membership_for_mechanism(data, **options)  # type: ignore[arg-type]
    membership = membership_for_mechanism(data, members=100, shadows=2)
    model = AllMembers("all", "cpu", MLP, 2)
    runs = Runs(membership, tmp_path)
    with pytest.raises(OptionError, match="lira needs at least 4 shadow runs"):
        audit_runs(runs, [model], ["lira"])
    with pytest.raises(OptionError, match="delta must be in"):
        audit_runs(runs, [model], ["loss"], delta=1.0)
    assert list(tmp_path.iterdir()) == [], "refused before any run"


def test_non_members_that_are_members_are_refused(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    leaking = replace(data, read_test=lambda: data.train)
    membership = membership_for_mechanism(leaking, members=300, non_members="test")
    model = AllMembers("all", "cpu", MLP, 2)
    with pytest.raises(DataError, match=r"at most 1% of non-members .* got 300 of"):
        audit_runs(Runs(membership, tmp_path), [model], ["loss"])
    with pytest.raises(OptionError, match="members and the population overlap"):
        replace(membership, targets=membership.targets | membership.population)
    with pytest.raises(OptionError, match="scored must be of 1737 examples"):
        replace(membership, scored=membership.scored[:, 1:])


class OfModel(AbstractAttack):
    @property
    def threat_model(self) -> Any:
        return "model"

    def scores(self, evidence: Evidence) -> Any:
        return evidence.labels.double()


@dd_plugins.record
class Overwrites(OfModel):
    """Works in place on all that it is given."""

    name = "overwrites"

    def scores(self, evidence: Evidence) -> Any:
        own = evidence.target
        for each in (own, *(reference.seen for reference in evidence.references)):
            each.outputs.zero_()
            assert each.pixel_distance is not None
            each.pixel_distance.fill_(1)
        for reference in evidence.references:
            reference.members.logical_not_()
        for mask in (evidence.known, evidence.members, evidence.population):
            mask.fill_(True)
        evidence.labels.zero_()
        assert evidence.scored is not None
        evidence.scored.fill_(False)
        return own.outputs[:, 0]


@dd_plugins.record
class Raises(OfModel):
    name = "raises"
    where: str = "scores"

    @property
    def threat_model(self) -> Any:
        if self.where == "threat_model":
            raise KeyError("threat")
        return "everything" if self.where == "nowhere" else "model"

    @property
    def references_needed(self) -> int:
        if self.where == "references_needed":
            raise ZeroDivisionError
        return 0

    @property
    def learns_from_known(self) -> bool:
        if self.where == "learns_from_known":
            raise AttributeError("known\nof two lines")
        return False

    def scores(self, evidence: Evidence) -> Any:
        if self.where == "exit":
            raise SystemExit(3)
        if self.where == "scores":
            raise ValueError("singular [red]matrix")
        if self.where == "none":
            return None
        if self.where == "few":
            return [0.0]
        if self.where == "columns":
            return evidence.labels.double()[:, None]
        if self.where == "list":
            return [float(each) for each in evidence.labels]
        return evidence.labels.numpy()


@pytest.fixture
def strange_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attacks of this file be found, as if a plugin registered them."""

    def find(spec: str) -> AbstractAttack:
        name, _, where = spec.partition(":")
        if name == "raises":
            return Raises(where=where)
        return Overwrites() if name == "overwrites" else get_attack(spec)

    monkeypatch.setattr("dd_privacy.audit.audit.get_attack", find)


@pytest.mark.usefixtures("strange_attacks")
def test_no_attack_changes_the_evidence_of_another(tmp_path: Path) -> None:
    membership = membership_for_mechanism(
        noisy_data(300), members=120, shadows=4, canaries=20
    )
    set_of = distillation("mine")
    names = ["loss", "lira", "rmia", "pixel_distance"]
    runs = Runs(membership, tmp_path)
    alone = audit_runs(runs, [set_of, replace(set_of, name="again")], names)
    after = audit_runs(
        runs,
        [set_of, replace(set_of, name="again")],
        ["overwrites", names[0], "overwrites", *names[1:]],
    )
    rows = [row.as_dict() for row in after.rows if row.attack != "overwrites"]
    assert len(rows) < len(after.rows)
    assert rows == [row.as_dict() for row in alone.rows]
    assert after.skipped == ()


FAILING = {
    "scores": "ValueError: singular [red]matrix",
    "exit": "SystemExit: 3",
    "none": "RuntimeError",
    "few": "must give each of ",
    "columns": "must give each of ",
    "threat_model": "KeyError: 'threat'",
    "references_needed": "ZeroDivisionError",
    "learns_from_known": "AttributeError: known of two lines",
    "nowhere": "must be one of images, model, both, got 'everything'",
}


@pytest.mark.usefixtures("strange_attacks")
def test_attacks_that_fail_are_named_and_the_others_stay(tmp_path: Path) -> None:
    failing = [f"raises:{where}" for where in FAILING]
    found = audited(tmp_path, ["loss", *failing, "pixel_distance"])
    assert {row.attack for row in found.rows} == {"loss", "pixel_distance"}
    assert {mechanism for mechanism, _, _ in found.skipped} == {"mine"}
    told = {attack: why for _, attack, why in found.skipped}
    assert len(told) == len(found.skipped) == len(FAILING)
    for where, reason in FAILING.items():
        assert reason in told[repr(Raises(where=where))]
    assert [each["reason"] for each in found.as_dict()["skipped"]] == [*told.values()]
    page = write_report(found, tmp_path / "report.html").read_text()
    assert page.count("Not made") == 1


@pytest.mark.usefixtures("strange_attacks")
def test_scores_may_be_a_list_or_an_array(tmp_path: Path) -> None:
    found = audited(tmp_path, ["raises:list", "raises:array"])
    assert found.skipped == ()
    first, second = (
        [row.auc for row in found.rows if f"'{kind}'" in row.attack]
        for kind in ("list", "array")
    )
    assert first == second != []


def test_attacks_are_named_at_least_once_and_made_once(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="at least one attack, got none"):
        audited(tmp_path, [])
    once = audited(tmp_path, ["loss"])
    for attacks in (["loss", "loss"], "loss"):
        again = audited(tmp_path, attacks)  # type: ignore[arg-type]
        assert [row.as_dict() for row in again.rows] == [
            row.as_dict() for row in once.rows
        ]


def test_members_of_all_runs_are_checked_before_the_first(tmp_path: Path) -> None:
    model = AllMembers("all", "cpu", MLP, 2)
    data = rare_data()
    membership = next(
        membership
        for membership in (
            membership_for_mechanism(data, members=60, shadows=6, seed=seed)
            for seed in range(300)
        )
        if _lacks_late(membership)
    )
    runs = Runs(membership, tmp_path)
    with pytest.raises(DataError, match=r"class '\[red\]rare', .*--members"):
        audit_runs(runs, [model], ["loss", "lira"])
    assert list(tmp_path.iterdir()) == [], "no run is made"
    # Without shadow runs only the audited one is made, and it has all classes.
    assert audit_runs(runs, [model], ["loss"]).rows


def _lacks_late(membership: Membership) -> bool:
    """Tell whether a shadow run lacks the rare class, and no audited one does."""
    rare = membership.labels == 3
    audited_has = bool(membership.targets[:, rare].any())
    return audited_has and not bool(membership.shadows[:, rare].any(dim=1).all())
