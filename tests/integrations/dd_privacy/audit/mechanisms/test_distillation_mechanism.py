"""Distillation of members, and training on the result."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mechanism_runs import same_run, weights
from privacy_data import MLP, distillation, noisy_data

import dd_plugins
from dd_plugins.api import RunOptions
from dd_plugins.errors import OptionError
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.mechanisms import Distillation
from dd_privacy.audit.mechanisms.training import fresh_network
from dd_privacy.audit.runs import Runs


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


def test_a_private_distillation_states_its_epsilon(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(200), members=80)
    runs = Runs(membership, tmp_path)
    options = RunOptions(
        distiller="dp_frepo(3)", steps=2, network="dc_convnet(width=4)"
    )
    mechanism = Distillation("mine", "cpu", options, training_steps=2)
    runs.make(mechanism, 0)
    found = runs.load(mechanism, 0)
    assert found.epsilon is not None
    assert 2.9 < found.epsilon <= 3
    assert found.distilled is not None
    assert found.distilled.header.dataset.fingerprint == ""


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


FREPO = RunOptions(distiller="frepo(pool_size=1)", steps=1, network=MLP)


def test_nothing_but_members_and_seed_decides_about_a_set_and_its_model() -> None:
    same_run(distillation("mine"), noisy_data(60))
    same_run(Distillation("mine", "cpu", FREPO, 1), noisy_data(60))


def test_the_seed_of_the_options_is_not_that_of_a_run() -> None:
    data = noisy_data(60)
    asked = distillation("mine")
    other = replace(asked, options=replace(asked.options, seed=17))
    first, second = (each.run(data, 3) for each in (asked, other))
    assert first.distilled is not None
    assert second.distilled is not None
    assert first.distilled.header.seed == second.distilled.header.seed == 3
    assert torch.equal(first.distilled.images, second.distilled.images)
    assert torch.equal(weights(first), weights(second))
    assert asked.description() == other.description()


def test_a_set_is_made_of_members_alone() -> None:
    data = noisy_data(60)
    release = distillation("mine", 3).run(data, 0)
    assert release.distilled is not None
    assert len(release.distilled) == 12
    released, members = (
        each.double().flatten(1)
        for each in (release.distilled.pixels(), data.train.images[:])
    )
    apart = torch.cdist(released, members).min(dim=1).values
    assert float(apart.max()) < 1e-4
    assert release.transform is release.distilled.transform


def test_another_network_may_be_trained_on_the_set() -> None:
    data = noisy_data(60)
    own, other = (
        distillation("mine", evaluation_network=each).run(data, 0)
        for each in (None, "mlp(width=5)")
    )
    wanted = fresh_network("mlp(width=5)", (1, 8, 8), 4, 0, torch.device("cpu"))
    assert weights(other).shape == weights(wanted).shape
    assert weights(own).shape != weights(other).shape
    assert own.distilled is not None
    assert other.distilled is not None
    assert torch.equal(own.distilled.images, other.distilled.images)


def test_more_steps_change_the_model_and_not_the_set() -> None:
    data = noisy_data(60)
    short, long = (distillation("mine", training_steps=each) for each in (1, 4))
    first, second = short.run(data, 0), long.run(data, 0)
    assert first.distilled is not None
    assert second.distilled is not None
    assert torch.equal(first.distilled.images, second.distilled.images)
    assert not torch.equal(weights(first), weights(second))


def test_what_is_refined_is_distilled_first_with_the_same_seed(tmp_path: Path) -> None:
    data = noisy_data(60)
    first = Distillation("first", "cpu", replace(FREPO, images_per_class=2))
    second = replace(first, name="second", training_steps=1, refined=first)
    release = second.run(data, 5, tmp_path)
    assert release.distilled is not None
    context = release.distilled.header.context
    assert context is not None
    assert context.refined
    assert (context.header.seed, release.distilled.header.seed) == (5, 5)
    alone = replace(first, training_steps=1).run(data, 5).distilled
    assert alone is not None
    assert context.header.initial_indices == alone.header.initial_indices
    assert (tmp_path / "refined").is_dir(), "each keeps checkpoints of its own"


def test_a_set_that_is_not_kept_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Distillation("mine", "cpu", FREPO, 1).run(noisy_data(40), 0)
    assert list(tmp_path.iterdir()) == []


def test_the_network_that_is_distilled_on_is_told_in_full() -> None:
    data = noisy_data(40)
    assert distillation("mine").resolved_network(data).startswith("mlp(width=32")
    with pytest.raises(OptionError, match="depth"):
        Distillation(
            "mine", "cpu", replace(FREPO, network="conv(depth=-1)")
        ).resolved_network(data)


def test_time_grows_with_the_steps_that_are_asked_for() -> None:
    data = noisy_data(40)
    few, many = (
        Distillation("mine", "cpu", replace(FREPO, steps=steps), 1).expected_seconds(
            data
        )
        for steps in (6, 10_000_000)
    )
    assert 0 < few < many
