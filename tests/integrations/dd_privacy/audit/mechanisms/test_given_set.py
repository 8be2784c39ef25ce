"""A set that exists already, and how shadow runs repeat it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mechanism_runs import same_run, small_set, weights
from privacy_data import MLP, figures, noisy_data

import dd_plugins
from dd_plugins.errors import OptionError
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_artifact
from dd_privacy.audit.mechanisms import Distillation, GivenSet
from dd_privacy.audit.runs import Runs


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
    with pytest.raises(OptionError, match=r"given.*--shadows 0"):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()
    older = {name: made.header.options[name] for name in ("pool_size", "ridge")}
    header = made.header.model_copy(update={"options": older})
    with pytest.raises(OptionError, match=r"given .*augment, .*, loss, .*--shadows 0"):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()


def test_shadow_runs_of_a_wrapper_ask_for_the_options_of_its_base() -> None:
    options = {"images_per_class": 2, "network": MLP, "steps": 2}
    made = dd_plugins.distill("digits", "clip(frepo(pool_size=1))", **options)
    assert GivenSet("given", "cpu", made).for_shadows().options.steps == 2  # type: ignore[attr-defined]
    older = {"distiller": "clip(frepo(pool_size=1, flip=False), max_norm=1.0)"}
    header = made.header.model_copy(update=older)
    with pytest.raises(OptionError, match=r"clip.*given.*base.*--shadows 0"):
        GivenSet("given", "cpu", replace(made, header=header)).for_shadows()


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


def test_the_seed_decides_about_the_model_and_the_set_stays() -> None:
    given = GivenSet("given", "cpu", small_set(), 2)
    same_run(given, noisy_data(40), released=False)
    before = given.description()
    given.run(noisy_data(40), 3)
    assert given.description() == before, "training changes no image"


def test_members_do_not_count_for_a_set_that_is_there() -> None:
    given = GivenSet("given", "cpu", small_set(), 2)
    first, second = (given.run(noisy_data(40, seed=seed), 3) for seed in (0, 1))
    assert torch.equal(weights(first), weights(second))


def test_shadow_runs_ask_for_what_the_header_tells() -> None:
    made = small_set(images_per_class=3)
    given = GivenSet("given", "cpu", made, 4)
    shadow = given.for_shadows()
    assert isinstance(shadow, Distillation)
    assert (shadow.name, shadow.device, shadow.refined) == ("given", "cpu", None)
    assert shadow.evaluation_network == made.header.evaluation_network
    assert shadow.for_shadows() is shadow
    release = shadow.run(noisy_data(80, seed=4), made.header.seed)
    assert release.distilled is not None
    for name in ("distiller", "options", "network", "steps", "value_space", "mirror"):
        assert getattr(release.distilled.header, name) == getattr(made.header, name)
    assert len(release.distilled) == len(made) == 12


def test_shadow_runs_on_the_same_members_make_the_same_set() -> None:
    data = noisy_data(80)
    made = small_set()
    again = GivenSet("given", "cpu", made, 1).for_shadows().run(data, made.header.seed)
    assert again.distilled is not None
    assert torch.equal(again.distilled.images, made.images)
    assert again.distilled.content_hash() == made.content_hash()


def test_training_steps_are_those_of_the_protocol_unless_they_are_given() -> None:
    given = GivenSet("given", "cpu", small_set())
    assert given.for_shadows().training_steps is None  # type: ignore[attr-defined]
    few = replace(given, training_steps=6).expected_seconds(noisy_data(4))
    assert given.expected_seconds(noisy_data(4)) > few > 0
