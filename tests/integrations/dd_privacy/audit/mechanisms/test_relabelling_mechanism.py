"""Labels of a teacher that is trained on the members, as a channel of their own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Command
from privacy_data import figures, noisy_data

import dd_plugins
from dd_plugins.api import RunOptions
from dd_plugins.errors import OptionError
from dd_plugins.synthetic.view_records import TeacherRecord, ViewsRecord
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.mechanisms import Distillation, GivenSet
from dd_privacy.audit.mechanisms.relabelling import Relabelling
from dd_privacy.audit.runs import Runs

NETWORK = "mlp(width=128)"
HOW = Relabelling(
    (NETWORK,),
    "recipe(steps=300, augmentation='none')",
    "views(count=20, mix='mixup')",
    temperature=1.0,
    student="recipe(steps=300, learning_rate=0.003, augmentation='none')",
)
NOISE = RunOptions(
    distiller="random", images_per_class=30, network=NETWORK, initial_images="noise"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))


def test_labels_of_noise_tell_who_the_teacher_was_trained_on(tmp_path: Path) -> None:
    """The images are the same for all members, so only their labels can leak."""
    membership = membership_for_mechanism(
        noisy_data(300, hard=1.0), members=130, shadows=0
    )
    areas = []
    for number, relabelling in enumerate((HOW, None)):
        mechanism = Distillation(
            "noise", "cpu", NOISE, training_steps=300, relabelling=relabelling
        )
        audit = audit_runs(
            Runs(membership, tmp_path / str(number)), [mechanism], ["loss"]
        )
        area = figures(audit)["noise", "loss", "other_members"].auc.estimate
        assert area is not None
        areas.append(area)
    assert areas[0] > 0.65
    assert areas[1] < 0.62


def test_each_run_has_a_teacher_of_its_own_members(tmp_path: Path) -> None:
    few = replace(
        HOW,
        teacher_recipe="recipe(steps=3)",
        student="recipe(steps=2, temperature=1.0)",
    )
    membership = membership_for_mechanism(noisy_data(120), members=50, shadows=2)
    mechanism = Distillation("noise", "cpu", NOISE, relabelling=few)
    made = [mechanism.run(membership.data(run), 5).distilled for run in range(3)]
    labels = []
    for each in made:
        assert each is not None
        assert each.view_labels is not None
        labels.append(each.view_labels)
    assert torch.equal(made[0].images, made[1].images)  # type: ignore[union-attr]
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[1], labels[2])
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert dd_plugins.get_network(NETWORK) in mechanism.records()
    plain = replace(mechanism, relabelling=None)
    assert "relabelling" not in plain.description(), "older runs are found again"
    assert plain.description() != mechanism.description()


def test_shadow_runs_of_a_relabelled_set_relabel() -> None:
    data = noisy_data(100)
    made = dd_plugins.distill(data, "random", network=NETWORK, device="cpu")
    taught = dd_plugins.relabel(
        made,
        NETWORK,
        teacher_recipe="recipe(steps=3)",
        views="views(count=2)",
        temperature=3.0,
        student="recipe(steps=2, temperature=3.0)",
        data=data,
    )
    again = GivenSet("given", "cpu", taught).for_shadows()
    assert isinstance(again, Distillation)
    assert again.relabelling == Relabelling(
        (repr(dd_plugins.get_network(NETWORK)),),
        "recipe(steps=3)",
        "views(count=2)",
        3.0,
        None,
        "recipe(steps=2, temperature=3.0)",
    )


def test_a_finished_set_is_audited_with_the_labels_of_its_own_teacher(
    command_line: Command,
) -> None:
    words = ("distill", "--dataset", "digits", "--distiller", "random", "--out", "run")
    assert command_line(*words, "--network", "mlp(width=4)").returncode == 0
    words = ("relabel", "run", "--teacher", "mlp(width=4)", "--out", "taught")
    recipe, student = "recipe(steps=2)", "recipe(steps=2, temperature=20.0)"
    words = (*words, "--teacher-recipe", recipe, "--student", student)
    assert command_line(*words, "--views", "views(count=2)").returncode == 0
    words = ("audit", "taught", "--dataset", "digits", "--members", 300)
    done = command_line(*words, "--shadows", 0, "--attacks", "loss")
    assert done.returncode == 0, done.stderr
    assert "loss" in done.stdout


def test_a_set_that_does_not_name_its_teacher_has_no_shadow_runs() -> None:
    data = noisy_data(100)
    made = dd_plugins.distill(data, "random", network=NETWORK, device="cpu")
    module = dd_plugins.get_network(NETWORK).build(
        data.image_shape, 4, generator=torch.Generator()
    )
    taught = dd_plugins.relabel(made, module.eval(), views="views(count=2)")
    with pytest.raises(OptionError, match=r"given.*does not name it.*--shadows 0"):
        GivenSet("given", "cpu", taught).for_shadows()


def test_the_command_audits_relabelled_sets(command_line: Command) -> None:
    words = ("audit", "random", "--dataset", "digits", "--network", "mlp(width=4)")
    words = (*words, "--shadows", 0, "--members", 300, "--training-steps", 5)
    words = (*words, "--attacks", "loss")
    recipe = ("--teacher-recipe", "recipe(steps=2)")
    done = command_line(*words, "--teacher", "mlp(width=4)", *recipe)
    assert done.returncode == 0, done.stderr
    assert "loss" in done.stdout
    for wrong, told in (
        (recipe, "--teacher-recipe needs --teacher"),
        (("--teacher", "mlq"), "unknown network"),
    ):
        refused = command_line(*words, *wrong)
        assert refused.returncode != 0
        assert told in refused.stderr


@pytest.mark.parametrize(
    ("recipes", "seed", "reason"),
    [
        (["recipe(steps=2)"], 1, "names a seed other than 0"),
        (["recipe(steps=2)", "recipe(steps=3)"], 0, "names several recipes"),
    ],
)
def test_teachers_that_shadow_runs_cannot_repeat_are_told_apart(
    recipes: list[str], seed: int, reason: str
) -> None:
    made = dd_plugins.distill(noisy_data(100), "random", network=NETWORK, device="cpu")
    teachers = [
        TeacherRecord(network=NETWORK, recipe=each, seed=seed) for each in recipes
    ]
    views = ViewsRecord(
        views="views(count=2)",
        temperature=3.0,
        teacher=teachers[0],
        further_teachers=teachers[1:],
    )
    header = made.header.model_copy(update={"views": views})
    with pytest.raises(OptionError, match=f"and the file {reason}; audit it with"):
        Relabelling.of_header(header, "given")
