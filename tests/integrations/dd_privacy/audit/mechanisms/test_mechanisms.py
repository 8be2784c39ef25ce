"""Mechanisms run what is shipped, and shadow runs repeat it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from privacy_data import MLP, figures, noisy_data

import dd_plugins
from dd_plugins.api import RunOptions, get_parametrization
from dd_plugins.errors import OptionError
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_artifact, membership_for_mechanism
from dd_privacy.audit.mechanisms import (
    AbstractMechanism,
    AllMembers,
    Distillation,
    GivenSet,
    PrivateTraining,
)
from dd_privacy.audit.mechanisms.training import timed
from dd_privacy.audit.runs import Runs
from dd_privacy.private.trainer import PrivateTrainer


def test_audited_distillation_is_that_which_ships(tmp_path: Path) -> None:
    data = dd_plugins.get_dataset("digits")
    membership = membership_for_mechanism(data, members=300)
    runs = Runs(membership, tmp_path)
    options = RunOptions(distiller="frepo(pool_size=1)", steps=2)
    short = Distillation("mine", "cpu", options, training_steps=2)
    runs.make(short, 0)
    audited, plain = (
        runs.load(short, 0).distilled,
        dd_plugins.distill(data, "frepo(pool_size=1)", steps=2, device="cpu"),
    )
    assert audited is not None
    for name in ("distiller", "options", "network", "value_space", "mirror"):
        assert getattr(audited.header, name) == getattr(plain.header, name)
    assert short.resolved_network(data) == "conv(width=32, depth=2)"


def test_killed_distillation_goes_on(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(200), members=80)
    runs = Runs(membership, tmp_path)
    mechanism = Distillation(
        "mine",
        "cpu",
        RunOptions(distiller="frepo(pool_size=1)", steps=9, network=MLP),
        training_steps=2,
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
    with pytest.raises(OptionError, match="only a refined context of the same classes"):
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
    assert GivenSet("given", "cpu", made).for_shadows().options.steps == 2  # type: ignore[attr-defined]
    older = {"distiller": "clip(frepo(pool_size=1, flip=False), max_norm=1.0)"}
    header = made.header.model_copy(update=older)
    with pytest.raises(
        OptionError, match=r"of clip in full, .* tell base: .*--shadows 0"
    ):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()


@dataclass(frozen=True)
class Foreign(AllMembers):
    """A mechanism of another package."""


@pytest.mark.parametrize(
    ("mechanism", "name"),
    [
        (Distillation("a"), "dd_privacy.mechanisms.Distillation"),
        (AllMembers("a"), "dd_privacy.mechanisms.AllMembers"),
        (PrivateTraining("a"), "dd_privacy.mechanisms.PrivateTraining"),
        (Foreign("a"), f"{__name__}.Foreign"),
    ],
)
def test_a_description_has_the_name_that_is_in_keys_of_kept_runs(
    mechanism: AbstractMechanism, name: str
) -> None:
    found = mechanism.description()
    assert found["mechanism"] == name
    assert "name" not in found, "what a report calls it makes no other run"
    assert found == replace(mechanism, name="b").description()
    assert json.loads(json.dumps(found)) == found
    assert mechanism.for_shadows() is mechanism


def test_a_description_has_every_option_of_a_distillation() -> None:
    found = Distillation(
        "a", refined=Distillation("b", options=RunOptions(steps=3, seed=8))
    ).description()
    assert set(found) == {
        *("mechanism", "device", "training_steps", "evaluation_network", "refined"),
        *("distiller", "images_per_class", "steps", "network", "initial_images"),
        *("parametrization", "preprocessing", "mirror", "precision"),
    }
    refined = found["refined"]
    assert isinstance(refined, dict)
    assert (refined["steps"], "name" in refined) == (3, False)
    assert refined.keys().isdisjoint({"seed", "refine_context", "options"})
    assert "refined" not in Distillation("a").description()


def test_records_are_those_that_specs_name() -> None:
    mechanism = Distillation(
        "mine",
        options=RunOptions(
            distiller="frepo(pool_size=1)",
            network=MLP,
            initial_images="herding(training_steps=0)",
            parametrization="packed(factor=2)",
        ),
        evaluation_network="mlp(width=8)",
        refined=Distillation("first", options=RunOptions(distiller="dm")),
    )
    assert [repr(record).partition("(")[0] for record in mechanism.records()] == [
        *("frepo", "packed", "mlp", "mlp", "herding", "dm", "identity")
    ]
    assert Distillation("mine").records() == [
        dd_plugins.get_distiller("frepo"),
        get_parametrization("identity"),
    ]
    assert AllMembers("all", network=MLP).records() == [dd_plugins.get_network(MLP)]
    private = PrivateTraining("private", trainer=PrivateTrainer(network=MLP))
    assert private.records() == [dd_plugins.get_network(MLP)]


def test_all_members_release_a_model_that_the_seed_decides() -> None:
    data = noisy_data(60)
    model = AllMembers("all", "cpu", MLP, 3)
    releases = [model.run(data, seed) for seed in (0, 0, 1)]
    first, same, other = (
        torch.nn.utils.parameters_to_vector(each.network.parameters())
        for each in releases
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert releases[0].distilled is None
    assert releases[0].epsilon is None
    network = replace(model, augment=False).run(data, 0).network
    plain = torch.nn.utils.parameters_to_vector(network.parameters())
    assert not torch.equal(first, plain)


def test_private_training_is_repeated_by_the_seed_of_the_run() -> None:
    pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
    trainer = PrivateTrainer(
        network="mlp(width=4)", epsilon=8.0, batch_size=20, epochs=1, device="nowhere"
    )
    private = PrivateTraining("private", "cpu", trainer)
    data = noisy_data(80)
    first, same = (private.run(data, 3) for _ in range(2))
    weights = [
        torch.nn.utils.parameters_to_vector(each.network.parameters())
        for each in (first, same)
    ]
    assert torch.equal(*weights)
    assert first.distilled is None
    assert first.epsilon is not None
    assert 7.9 < first.epsilon <= 8.0
    assert private.expected_seconds(data) > 0


def test_a_set_that_is_given_is_described_by_its_content() -> None:
    made = dd_plugins.distill(noisy_data(80), "random", network=MLP, device="cpu")
    given = GivenSet("given", "cpu", made, 2)
    found = given.description()
    assert found["content"] == made.content_hash()
    assert found["mechanism"] == "GivenSet"
    release = given.run(noisy_data(20), 0)
    assert release.distilled is made
    assert release.epsilon is None
    assert given.expected_seconds(noisy_data(20)) > 0
    assert given.records() == [dd_plugins.get_network(made.header.evaluation_network)]
    shadow = given.for_shadows()
    assert isinstance(shadow, Distillation)
    assert (shadow.options.distiller, shadow.training_steps) == (
        made.header.distiller,
        2,
    )


def test_an_old_file_without_initial_images_is_repeated_from_noise() -> None:
    made = dd_plugins.distill(
        noisy_data(80),
        "frepo(pool_size=1)",
        steps=1,
        network=MLP,
        initial_images="noise",
        device="cpu",
    )
    unknown = {"format_version": 1, "initial_images": None, "initial_indices": None}
    header = made.header.model_copy(update=unknown)
    old = GivenSet("given", "cpu", replace(made, header=header))
    assert old.for_shadows().options.initial_images == "noise"  # type: ignore[attr-defined]
    known = header.model_copy(update={"initial_indices": [0, 1, 2, 3]})
    old = GivenSet("given", "cpu", replace(made, header=known))
    assert old.for_shadows().options.initial_images is None  # type: ignore[attr-defined]


def test_the_time_of_all_steps_is_told_from_a_few() -> None:
    data = noisy_data(60)
    short, long = (
        AllMembers("all", "cpu", MLP, steps).expected_seconds(data)
        for steps in (6, 60_000)
    )
    assert 0 < short < long
    calls: list[int] = []
    result, seconds = timed(lambda: calls.append(1) or "done")
    assert (result, calls) == ("done", [1])
    assert seconds >= 0
