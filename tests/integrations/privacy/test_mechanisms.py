"""Mechanisms run what is shipped, and shadow runs repeat it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from privacy_data import MLP, figures, noisy_data

import dd_plugins
from dd_plugins.errors import OptionError
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_artifact, membership_for_mechanism
from dd_privacy.audit.mechanisms import Distillation, GivenSet
from dd_privacy.audit.runs import Runs


def test_audited_distillation_is_that_which_ships(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    membership = membership_for_mechanism(data, members=300)
    runs = Runs(membership, tmp_path)
    mechanism = Distillation("mine", "cpu", "frepo(pool_size=1)", training_steps=2)
    short = replace(mechanism, steps=2)
    runs.make(short, 0)
    audited, plain = (
        runs.load(short, 0).distilled,
        dd_plugins.distill(data, "frepo(pool_size=1)", steps=2, device="cpu"),
    )
    assert audited is not None
    for name in ("distiller", "options", "network", "value_space", "mirror"):
        assert getattr(audited.header, name) == getattr(plain.header, name)
    assert mechanism.resolved_network(data) == "conv(width=32, depth=2)"


def test_killed_distillation_goes_on(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(200), members=80)
    runs = Runs(membership, tmp_path)
    mechanism = Distillation(
        "mine", "cpu", "frepo(pool_size=1)", steps=9, network=MLP, training_steps=2
    )
    folder = runs.path(mechanism, 0) / "run"
    data, seed = membership.data(0), runs._seed(0)
    dd_plugins.distill(
        data, "frepo(pool_size=1)", steps=9, network=MLP, seed=seed, out=folder
    )
    steps = (folder / "metrics.jsonl").read_text()
    resumed = mechanism.run(data, seed, folder)
    assert resumed.distilled is not None
    assert (folder / "metrics.jsonl").read_text() == steps, "no step is made again"
    runs.make(mechanism, 0)
    assert not folder.exists(), "what lets a run go on is removed with its end"
    found = runs.load(mechanism, 0).distilled
    assert found is not None
    assert torch.equal(found.images, resumed.distilled.images)


def test_shadow_runs_of_an_artifact_distil_anew(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    spec, network = "frepo(pool_size=1)", "conv(width=4, depth=2)"
    made = dd_plugins.distill(data, spec, images_per_class=2, steps=3, network=network)
    membership = membership_for_artifact(data, None, members=300, shadows=4)
    runs, given = Runs(membership, tmp_path), GivenSet("given", "cpu", made, 5)
    audit = audit_runs(runs, [given], ["lira"])
    assert audit.about["shadows"] == 4
    assert given.for_shadows().evaluation_network == (
        "conv(width=4, depth=2, normalization='none')"
    )
    target, *shadows = (runs.load(given, run).distilled for run in range(5))
    assert target is not None
    assert torch.equal(target.images, made.images)
    for each in shadows:
        assert each is not None
        assert not torch.equal(each.images, made.images)
        assert each.header.distiller == made.header.distiller
        assert each.header.steps == 3
        assert len(each) == 20


def test_shadow_runs_repeat_what_a_set_refined(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    spec, options = "frepo(pool_size=1)", {"images_per_class": 2, "network": MLP}
    first = dd_plugins.distill(
        data, spec, steps=2, initial_images="herding(training_steps=0)", **options
    )
    made = dd_plugins.distill(
        data, spec, steps=3, context=first, refine_context=True, **options
    )
    initial = torch.tensor(made.header.initial_indices)
    membership = membership_for_artifact(data, initial, members=300, shadows=2)
    runs, given = Runs(membership, tmp_path), GivenSet("given", "cpu", made, 5)
    audit = audit_runs(runs, [given], ["lira(online=False)", "pixel_distance"])
    row = figures(audit)["given", "pixel_distance", "initial_members"]
    assert row.auc.estimate is not None
    assert row.auc.estimate > 0.95, "after five steps the images are still theirs"
    for shadow in (runs.load(given, run).distilled for run in (1, 2)):
        assert shadow is not None
        assert shadow.header.steps == 3
        assert shadow.header.context is not None
        before = shadow.header.context.header
        assert (before.steps, before.initial_images) == (2, "herding(training_steps=0)")
        assert before.seed == shadow.header.seed
    again, renamed = given.for_shadows(), replace(given, name="other").for_shadows()
    assert again.description() == renamed.description()
    assert dd_plugins.get_distiller("herding(training_steps=0)") in again.records()
    assert again.expected_seconds(membership.data(1)) > 0
    kept = made.header.context
    assert kept is not None
    beside = kept.model_copy(update={"refined": False})
    header = made.header.model_copy(update={"context": beside})
    with pytest.raises(OptionError, match="that shadow runs cannot make again"):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()
    older = {name: made.header.options[name] for name in ("pool_size", "ridge")}
    header = made.header.model_copy(update={"options": older})
    with pytest.raises(
        OptionError, match=r"given does not tell augment, .*, loss, .*--shadows 0"
    ):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()


def test_shadow_runs_of_a_wrapper_ask_for_the_options_of_its_base() -> None:
    options = {"images_per_class": 2, "network": MLP, "steps": 2}
    made = dd_plugins.distill("digits", "clip(frepo(pool_size=1))", **options)
    assert GivenSet("given", "cpu", made).for_shadows().steps == 2
    older = {"distiller": "clip(frepo(pool_size=1, flip=False), max_norm=1.0)"}
    header = made.header.model_copy(update=older)
    with pytest.raises(OptionError, match=r"not tell base of clip .*--shadows 0"):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()
