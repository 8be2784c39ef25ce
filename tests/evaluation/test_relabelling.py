"""Relabelling: any set, the teacher's labels, what is said of it, and wrong input."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Command
from made_sets import linear_network, made_set, with_header
from torch import nn

import dd_plugins
from dd_plugins import DistilledSet, relabel
from dd_plugins.errors import DataError, OptionError
from dd_plugins.evaluation import relabelling
from dd_plugins.evaluation.relabelling import labels_stored
from dd_plugins.synthetic.header import FORMAT_VERSION
from dd_plugins.testing import toy_data
from dd_plugins.training import view_labels
from dd_plugins.training.kept_networks import train_networks

TEACHER = "conv(width=4, depth=2, normalization='batch')"
RECIPE = "recipe(steps=30, norm_momentum=0.3)"
OTHER = "vgg11(width=4, normalization='batch')"
VIEWS = "views(count=4, mix='cutmix')"
STUDENT = "recipe(steps=30, batch_size=4, augmentation='none', temperature=3.0)"
SHORT: dict[str, Any] = {
    "teacher_recipe": RECIPE,
    "views": VIEWS,
    "temperature": 3.0,
    "student": STUDENT,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made() -> DistilledSet:
    """Return a set whose labels are learned regression targets."""
    return dd_plugins.distill(
        toy_data(validation=0.0),
        "frepo(pool_size=2)",
        steps=3,
        images_per_class=3,
        network="conv(width=4, depth=2)",
        precision="float32",
        device="cpu",
    )


def test_images_stay_and_labels_become_those_of_classes(made: DistilledSet) -> None:
    found = relabel(made, TEACHER, data=toy_data(validation=0.0), **SHORT)
    assert torch.equal(found.images, made.images)
    assert torch.equal(found.labels, torch.eye(2)[[0, 0, 0, 1, 1, 1]])
    header = found.header
    assert (header.label_kind, header.recipe) == ("probabilities", STUDENT)
    assert header.views is not None
    assert header.views.teacher is not None
    told = (header.views.views, header.views.temperature, header.views.group)
    assert told == (VIEWS, 3.0, None)
    assert (header.views.teacher.network, header.views.teacher.recipe) == (
        TEACHER,
        RECIPE,
    )
    assert found.view_labels is None


@pytest.mark.parametrize(
    ("teachers", "group"), [(TEACHER, None), ([TEACHER, OTHER], 3)]
)
def test_stored_and_live_labels_train_the_same_bit_for_bit(
    made: DistilledSet, tmp_path: Path, group: int | None, teachers: Any
) -> None:
    data, accuracies = toy_data(validation=0.0), []
    for stored in (False, True):
        found = relabel(
            made, teachers, data=data, group=group, store_labels=stored, **SHORT
        )
        loaded = DistilledSet.load(found.save(tmp_path / f"{stored}.safetensors"))
        assert (loaded.view_labels is not None) == stored
        result = dd_plugins.evaluate(
            loaded, "mlp(width=4)", repeats=3, data=data, precision="float32"
        )
        accuracies.append(
            [
                result.networks[0].accuracies,
                result.taught_random[0].accuracies,
                result.hard[0].accuracies,
                result.random[0].accuracies,
            ]
        )
    assert accuracies[0] == accuracies[1]
    assert len(set(accuracies[0])) > 1


def test_weights_of_students_are_the_same_bit_for_bit(made: DistilledSet) -> None:
    """Accuracies are coarse: here each weight is compared."""
    from dd_plugins.evaluation.teacher_of_set import teacher_of
    from dd_plugins.training.protocols import recipe_for, training_set_of
    from dd_plugins.training.train import train_network

    cpu, data, weights = torch.device("cpu"), toy_data(validation=0.0), []
    for stored in (False, True):
        found = relabel(made, TEACHER, data=data, group=3, store_labels=stored, **SHORT)
        teacher = (
            None if stored else teacher_of(found, data, dd_plugins.get_network, cpu)
        )
        network = linear_network(torch.zeros(2, 64))
        training_set = training_set_of(found, device=cpu, teacher=teacher)
        generator = torch.Generator().manual_seed(0)
        train_network(network, training_set, recipe_for(found), generator=generator)
        weights.append(network.head.weight)
    assert torch.equal(*weights)
    assert weights[0].abs().sum() > 0


def test_modules_of_one_s_own_label_views_that_are_stored(made: DistilledSet) -> None:
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    found = relabel(made, linear_network(weight).eval(), views="views(count=2)")
    assert found.view_labels is not None
    assert found.view_labels.shape == (2, 6, 2)
    assert found.header.views is not None
    assert found.header.views.teacher is None
    result = dd_plugins.evaluate(
        found,
        "mlp(width=4)",
        repeats=1,
        protocol=STUDENT,
        data=toy_data(validation=0.0),
    )
    assert result.taught_random == ()
    assert "does not say whose they are" in result.without_teacher
    assert len(result.hard) == len(result.random) == 1


def test_a_teacher_s_labels_carry_what_a_teacher_knows() -> None:
    """Images of noise, labelled by what a network sees in them, teach some of it."""
    data = toy_data(validation=0.0)
    noise = dd_plugins.distill(
        data,
        "random",
        images_per_class=10,
        initial_images="noise",
        network="mlp(width=8)",
        device="cpu",
    )
    found = relabel(
        noise,
        "mlp(width=16)",
        data=data,
        teacher_recipe="recipe(steps=100, learning_rate=0.002)",
        views="views(count=30, mix='mixup')",
        temperature=1.0,
        student="recipe(steps=80, learning_rate=0.02, augmentation='none')",
    )
    result = dd_plugins.evaluate(found, "mlp(width=16)", repeats=1, data=data)
    assert result.networks[0].mean > 0.9
    assert result.hard[0].mean < 0.8
    told = result.as_dict()["baselines"]
    assert told["hard"]["accuracy_mean"] == result.hard[0].mean
    assert told["taught_random"]["accuracy_mean"] == result.taught_random[0].mean


def test_a_set_whose_teacher_is_gone_says_how_to_train_it(
    made: DistilledSet, cache: Path
) -> None:
    data = toy_data(validation=0.0)
    live, stored = (
        relabel(made, TEACHER, data=data, store_labels=store, **SHORT)
        for store in (False, True)
    )
    shutil.rmtree(cache)
    told = r"come from conv.*not kept in .*dd-plugins train-networks --dataset toy"
    with pytest.raises(OptionError, match=told):
        dd_plugins.evaluate(live, "mlp(width=2)", data=data)
    result = dd_plugins.evaluate(stored, "mlp(width=2)", repeats=1, data=data)
    assert result.taught_random == ()
    assert "train-networks" in result.without_teacher
    network = dd_plugins.get_network(TEACHER)
    (report,) = train_networks(
        data, network, recipe=RECIPE, device="cpu", precision="float32"
    )
    assert not report.was_there
    found = dd_plugins.evaluate(live, "mlp(width=2)", repeats=1, data=data)
    assert len(found.taught_random) == 1, "the command trains what the set asks for"


def test_a_module_elsewhere_is_copied_to_the_device() -> None:
    here, there = torch.device("cpu"), torch.device("meta")
    module = nn.BatchNorm1d(3)
    assert relabelling._on(module, here) is module
    found = relabelling._on(module, there)
    assert {each.device for each in found.state_dict().values()} == {there}
    assert {each.device for each in module.state_dict().values()} == {here}


def test_a_module_in_training_mode_is_refused() -> None:
    with pytest.raises(OptionError, match="evaluation mode"):
        relabel(made_set(), linear_network(torch.zeros(3, 32)), views="views(count=1)")


def test_a_set_cannot_spoil_the_teacher_of_its_data(
    made: DistilledSet, cache: Path
) -> None:
    transform = replace(made.transform, mean=made.transform.mean + 5)
    forged = replace(made, transform=transform)
    with pytest.raises(OptionError, match="another value space than its data"):
        relabel(forged, TEACHER, data=toy_data(validation=0.0), **SHORT)
    assert not list(cache.glob("*.safetensors"))
    relabel(made, TEACHER, data=toy_data(validation=0.0), **SHORT)  # keeps a teacher
    with pytest.raises(OptionError, match="another value space than its data"):
        relabel(forged, TEACHER, data=toy_data(validation=0.0), **SHORT)


def test_labels_of_a_kept_teacher_may_be_stored_later(made: DistilledSet) -> None:
    data = toy_data(validation=0.0)
    live, stored = (
        relabel(made, TEACHER, data=data, store_labels=store, **SHORT)
        for store in (False, True)
    )
    found = labels_stored(live, data=data)
    assert stored.view_labels is not None
    assert found.view_labels is not None
    assert torch.equal(found.view_labels, stored.view_labels)
    assert labels_stored(stored) is stored
    assert labels_stored(made) is made


@pytest.mark.parametrize(
    "file", sorted((ROOT / "tests" / "artifacts").iterdir()), ids=lambda file: file.stem
)
def test_artifacts_of_every_version_are_relabelled(file: Path, tmp_path: Path) -> None:
    older = DistilledSet.load(file)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, older.num_classes)).eval()
    found = relabel(older, teacher, views=VIEWS, device="cpu")
    loaded = DistilledSet.load(found.save(tmp_path / "set.safetensors"))
    assert torch.equal(loaded.images, older.images)
    assert loaded.header.format_version == FORMAT_VERSION


def test_a_set_in_a_space_that_older_versions_do_not_name_is_relabelled(
    tmp_path: Path,
) -> None:
    data, space = toy_data(), ([0.5], [0.5])
    images, labels = (data.train.images[:6] - 0.5) / 0.5, data.train.labels[:6]
    made = DistilledSet.from_tensors(images, labels, data, space=space)
    older = with_header(
        made, format_version=5, architectures=None, value_space="standardize"
    )
    file = older.save(tmp_path / "older.safetensors")
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    found = relabel(file, teacher, views=VIEWS, device="cpu")
    loaded = DistilledSet.load(found.save(tmp_path / "set.safetensors"))
    assert loaded.header.value_space == "constant"


def test_labels_of_an_older_file_may_be_stored(
    made: DistilledSet, tmp_path: Path
) -> None:
    data = toy_data(validation=0.0)
    live = relabel(made, TEACHER, data=data, **SHORT)
    older = with_header(live, format_version=4, architectures=None, decoder_values=None)
    file = older.save(tmp_path / "older.safetensors")
    found = labels_stored(file, data=data).save(tmp_path / "set.safetensors")
    assert DistilledSet.load(found).view_labels is not None


@pytest.mark.parametrize("preprocessing", ["zca", "standardize"])
def test_a_teacher_is_found_whatever_the_data_would_be_mapped_to(
    made: DistilledSet, preprocessing: Any
) -> None:
    """The set says in which value space its teacher sees images."""
    data = toy_data(validation=0.0).prepared(preprocessing, True)
    found = relabel(made, TEACHER, data=data, **SHORT)
    result = dd_plugins.evaluate(found, "mlp(width=2)", repeats=1, data=data)
    assert len(result.taught_random) == 1
    again = dd_plugins.evaluate(
        found, "mlp(width=2)", repeats=1, data=toy_data(validation=0.0)
    )
    assert again.taught_random == result.taught_random


def test_sizes_are_those_of_the_tensor(made: DistilledSet) -> None:
    found = relabel(
        made, TEACHER, data=toy_data(validation=0.0), store_labels=True, **SHORT
    )
    assert found.view_labels is not None
    assert view_labels.bytes_of_labels(4, 6, 2) == found.view_labels.nbytes


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (linear_network(torch.zeros(5, 32)).eval(), "must give 3 logits.*(2, 5)"),
        (linear_network(torch.zeros(3, 7)).eval(), "takes no images of shape"),
        (nn.Identity().eval(), "must give 3 logits"),
    ],
)
def test_a_teacher_of_other_classes_or_images_is_refused(
    module: nn.Module, told: str
) -> None:
    with pytest.raises(OptionError, match=told):
        relabel(made_set(), module, views="views(count=1)")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"group": 1}, "at least 2 images"),
        ({"views": "crops"}, "expected views"),
        ({"student": "views(count=1)"}, "recipe"),
        ({"student": "recipe(steps=3)"}, "must learn at the temperature"),
        ({"teacher_recipe": "recipe(steps=3)"}, "trained already"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], told: str) -> None:
    module = linear_network(torch.zeros(3, 32)).eval()
    with pytest.raises(OptionError, match=told):
        relabel(made_set(), module, **({"views": "views(count=1)"} | options))


def test_no_teacher_and_mixed_kinds_of_teachers_are_refused() -> None:
    module = linear_network(torch.zeros(3, 32)).eval()
    with pytest.raises(OptionError, match="at least one teacher"):
        relabel(made_set(), [])
    with pytest.raises(OptionError, match="specs of teachers or modules, got both"):
        relabel(made_set(), [module, "mlp"])


def test_a_teacher_of_other_data_is_refused(made: DistilledSet) -> None:
    other = toy_data(validation=0.0)
    train = other.train._replace(images=1 - other.train.images)
    other = replace(other, train=train)
    with pytest.raises(DataError, match="not the data that the set was distilled from"):
        relabel(made, TEACHER, data=other, **SHORT)


def test_groups_of_statistics_need_batch_norm_before_the_training(
    made: DistilledSet,
) -> None:
    with pytest.raises(OptionError, match="without BatchNorm"):
        relabel(
            made,
            "mlp(width=4)",
            data=toy_data(validation=0.0),
            group=2,
            store_labels=True,
            **SHORT,
        )


def test_labels_that_do_not_fit_are_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(view_labels, "fits_in_memory", lambda size: size < 1e9)
    module = linear_network(torch.zeros(3, 32)).eval()
    told = r"300,000,000 views of 6 images in 3 classes take 10.8 GB"
    with pytest.raises(OptionError, match=told):
        relabel(made_set(), module, views="views(count=300000000)")


def test_the_command_says_sizes_first_and_writes_the_set(
    command_line: Command, tmp_path: Path
) -> None:
    words = ("distill", "--dataset", "digits", "--distiller", "random", "--out", "run")
    assert command_line(*words, "--network", "mlp(width=8)").returncode == 0
    words = (
        "relabel",
        "run",
        "--teacher",
        "mlp(width=8)",
        "--teacher-recipe",
        "recipe(steps=20)",
    )
    student = "recipe(steps=20, temperature=20.0)"
    words = (*words, "--views", "views(count=3)", "--student", student)
    done = command_line(*words, "--store-labels", "--out", "taught.safetensors")
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first == "labels of 3 views of 10 images in 10 classes: 600 bytes"
    assert last == "10 relabelled images in taught.safetensors"
    found = DistilledSet.load(tmp_path / "taught.safetensors")
    assert found.view_labels is not None
    evaluated = command_line("evaluate", "taught.safetensors", "--repeats", 1)
    assert evaluated.returncode == 0, evaluated.stderr
    rows = [line.split("│")[1:3] for line in evaluated.stdout.splitlines()[4:8]]
    assert [[word.strip() for word in row] for row in rows] == [
        ["random real images", "classes"],
        ["random real images", "teacher's"],
        ["distilled set", "classes"],
        ["distilled set", "teacher's"],
    ]
    again = command_line(*words, "--out", "taught.safetensors")
    assert again.returncode != 0
    assert "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--temperature", 0), "temperature"),
        (("--teacher", "resnet19"), "unknown network"),
        (("--group", 1), "--group"),
        (("--views", "views(count=0)"), "count"),
        (("--dataset", "mnist"), "digits|mnist"),
    ],
)
def test_wrong_words_are_one_line(
    command_line: Command, words: tuple[Any, ...], told: str
) -> None:
    run = ("distill", "--dataset", "digits", "--distiller", "random", "--out", "run")
    assert command_line(*run, "--network", "mlp(width=8)").returncode == 0
    usual = () if "--teacher" in words else ("--teacher", "mlp(width=8)")
    found = command_line("relabel", "run", *usual, *words, "--out", "a.safetensors")
    assert found.returncode != 0
    assert "Traceback" not in found.stderr
    assert re.search(told, found.stderr)


def test_a_function_makes_a_teacher_too(made: DistilledSet, cache: Path) -> None:
    def linear(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    views: dict[str, Any] = {"views": "views(count=2)"}
    views["teacher_recipe"] = "recipe(steps=2)"
    found = relabel(made, linear, data=toy_data(validation=0.0), **views)
    assert found.header.views is not None
    assert found.header.views.teacher is not None
    assert len(list(cache.glob("*.safetensors"))) == 1
