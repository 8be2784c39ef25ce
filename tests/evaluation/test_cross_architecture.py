"""The report of transfer: who was seen, who was not, and what a pair says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BRIEFLY, Command
from scipy import stats

import dd_plugins
from dd_plugins import DistilledSet, RealData
from dd_plugins.errors import DataError, DDWarning, FileError, OptionError
from dd_plugins.evaluation import jobs
from dd_plugins.evaluation.cross_architecture import Transfer, transfer
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.mlp import MLP
from dd_plugins.networks.vgg import VGG11
from dd_plugins.spec import split_specs
from dd_plugins.testing import toy_data
from dd_plugins.training.protocols import recipe_for
from dd_plugins.training.recipes import Recipe, training_steps
from dd_plugins.training.train import train_network

BASE = "frepo(pool_size=2)"
WRAPPED = f"metadd({BASE}, networks=(vgg11(width=4), alexnet(width=8)), stages=(5,))"
NETWORKS = ["mlp(width=8)", "mlp(width=4)", "vgg11(width=8)"]
QUICK = Recipe(steps=30, learning_rate=1e-3, batch_size=100)


@pytest.fixture(scope="module")
def sets() -> list[DistilledSet]:
    return [
        dd_plugins.distill(toy_data(), spec, steps=3, network="conv(width=4, depth=2)")
        for spec in (BASE, WRAPPED)
    ]


@pytest.fixture(scope="module")
def found(sets: list[DistilledSet]) -> Transfer:
    return transfer(sets, NETWORKS, repeats=2, protocol=QUICK, data=toy_data())


def test_roles_are_read_from_the_artifact(found: Transfer) -> None:
    plain, wrapped = found.sets
    own = "conv(width=4, depth=2, normalization='none')"
    assert [result.spec for result in plain.results] == [own, *NETWORKS]
    assert plain.roles == ("distilled with", "held out", "held out", "held out")
    assert wrapped.roles[0] == "distilled with"
    assert wrapped.roles[-1] == "seen"  # whatever the width
    assert (plain.base, wrapped.base) == ("frepo", "frepo")


def test_sets_of_options_that_are_refused_today_are_evaluated(
    sets: list[DistilledSet],
) -> None:
    older = sets[0].header.model_copy(
        update={"distiller": "mtt(label_learning_rate=3.0)"}
    )
    made = replace(sets[0], header=older)
    options: dict[str, Any] = {"repeats": 1, "protocol": QUICK, "data": toy_data()}
    (report,) = transfer([made], ["mlp(width=4)"], **options).sets
    assert report.roles == ("distilled with", "held out")
    found = dd_plugins.evaluate(made, "mlp(width=4)", scores="kernel", **options)
    assert found.kernel is not None


def test_a_set_that_no_network_shaped_has_none_that_it_was_distilled_with() -> None:
    made = [
        dd_plugins.distill(toy_data(), spec, steps=2, network="mlp(width=4)")
        for spec in ("kip(real_batch_size=16)", "herding(training_steps=2)")
    ]
    options: dict[str, Any] = {"repeats": 1, "protocol": QUICK, "data": toy_data()}
    kip, herding = transfer(made, ["mlp(width=8)"], **options).sets
    assert kip.roles == ("held out", "held out")
    assert herding.roles == ("distilled with", "distilled with")
    find = dd_plugins.get_distiller
    assert not find("clip(herding(training_steps=0))").uses_network
    auxiliary = "networks=(vgg11(width=4), alexnet(width=8))"
    assert not find(f"metadd(kip, {auxiliary}, variant='variance')").uses_network
    assert find(f"metadd(kip, {auxiliary})").uses_network  # the paper's loss


def test_differences_are_paired_network_by_network(found: Transfer) -> None:
    first, second = found.sets
    for difference, one, other in zip(
        found.differences[:-2], first.results, second.results, strict=True
    ):
        gains = np.subtract(other.accuracies, one.accuracies)
        assert difference.spec == one.spec
        assert difference.mean == pytest.approx(gains.mean())
        if gains.std() > 0:
            expected = stats.t.interval(0.95, 1, gains.mean(), stats.sem(gains))
            assert difference.ci95 == pytest.approx(expected)
    held_out = found.differences[-1]
    assert held_out.spec == "held out"
    means = [
        np.mean([result.accuracies for result in report.results[1:3]], axis=0)
        for report in found.sets
    ]
    assert held_out.mean == pytest.approx(float((means[1] - means[0]).mean()))
    assert second.held_out() is not None


def test_sets_of_other_bases_or_alone_are_not_compared(
    sets: list[DistilledSet],
) -> None:
    options: dict[str, Any] = {"repeats": 1, "protocol": QUICK, "data": toy_data()}
    assert not transfer(sets[:1], NETWORKS, **options).differences
    other = dd_plugins.distill(toy_data(), "random", network="conv(width=4, depth=2)")
    report = transfer([sets[0], other], NETWORKS[:1], **options)
    assert not report.differences
    with pytest.raises(OptionError, match="at least one distilled set, got none"):
        transfer([], NETWORKS)


def test_command_writes_tables_json_and_one_page(
    command_line: Command, tmp_path: Path
) -> None:
    for spec, out in ((BASE, "plain"), (f"clip({BASE})", "clipped")):
        result = command_line(
            "distill", "--distiller", spec, "--steps", 2, "--out", out,
            "--network", "conv(width=4, depth=2)",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    result = command_line(
        "transfer", "plain", "clipped", "--networks", "mlp(width=4),mlp(width=8)",
        "--repeats", 2, "--protocol", "recipe(steps=20)", "--json", "found.json",
        "--html", "found.html", "--plot", "found.png", "--baselines", code=BRIEFLY,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [report["base"] for report in found["sets"]] == ["frepo", "frepo"]
    assert [row["role"] for row in found["sets"][0]["networks"]] == [
        "distilled with",
        "held out",
        "held out",
    ]
    assert [row["spec"] for row in found["differences"]][-2:] == [
        "mlp, 2 sizes",
        "held out",
    ]
    for report in found["sets"]:
        assert [row["family"] for row in report["families"]] == ["mlp"]
        for row, real, gain in zip(
            report["networks"], report["random"], report["over_random"], strict=True
        ):
            assert row["spec"] == real["spec"] == gain["spec"]
            difference = row["accuracy_mean"] - real["accuracy_mean"]
            assert gain["mean"] == pytest.approx(difference)
    title = "gain over 10 random real images, in pairs of equal networks"
    assert result.stdout.count(title) == 2
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "found.html").read_text()
    assert "mlp(width=8)" in page
    assert "held out" in page
    assert "http" not in page
    again = command_line(
        "transfer", "plain", "--networks", "mlp", "--json", "plain/summary.json"
    )
    assert again.returncode == 2
    assert "belongs to a run" in again.stderr
    both = command_line(
        "transfer", "plain", "--networks", "mlp", "--recipes", "auto",
        "--protocol", "frepo",
    )  # fmt: skip
    assert both.returncode == 2
    assert "expected no --protocol beside it, got frepo" in both.stderr


def test_each_architecture_may_have_the_recipe_of_its_family(
    sets: list[DistilledSet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[tuple[str, Recipe]] = []

    def train(module: Any, images: Any, recipe: Recipe, **options: Any) -> Any:
        trained.append((module.origin, recipe))
        return train_network(module, images, replace(recipe, steps=2), **options)

    monkeypatch.setattr(jobs, "train_network", train)
    monkeypatch.setattr(MLP, "few_images_recipe", "recipe(steps=500, mix='cutmix')")
    monkeypatch.setattr(VGG11, "few_images_recipe", "recipe(steps=700)")
    monkeypatch.setattr(Conv, "few_images_recipe", "")
    found = transfer(
        sets[0],
        ["mlp(width=4)", "vgg11(width=4)"],
        repeats=1,
        protocol="family",
        data=toy_data(),
    )
    assert [result.spec for result in found.sets[0].results][1:] == [
        "mlp(width=4)",
        "vgg11(width=4)",
    ]
    own = recipe_for(sets[0])
    fewer = training_steps(2) / training_steps(100)
    assert dict(trained) == {
        "conv": own,
        "mlp": Recipe(steps=round(500 * fewer), mix="cutmix"),
        "vgg11": Recipe(steps=round(700 * fewer)),
    }


@pytest.mark.parametrize("text", ["", "mlp,,", "mlp)", "(mlp"])
def test_specs_that_cannot_be_split_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected specs separated by commas"):
        split_specs(text)


OPTIONS: dict[str, Any] = {"repeats": 1, "protocol": QUICK}


def test_sets_of_different_data_are_not_compared(sets: list[DistilledSet]) -> None:
    images = toy_data().train.images.flip(0)
    test = toy_data().read_test()
    data = RealData.from_tensors(
        images, toy_data().train.labels, test=test, preprocessing="standardize"
    )
    other = dd_plugins.distill(data, BASE, steps=1, network="conv(width=4, depth=2)")
    with pytest.warns(DDWarning, match="not those that the set was distilled from"):
        found = transfer([sets[0], other], "mlp(width=2)", data=toy_data(), **OPTIONS)
    assert not found.differences
    assert "distilled from different data" in found.not_compared
    assert found.as_dict()["not_compared"] == found.not_compared
    another = dd_plugins.distill(
        toy_data(), "random", steps=1, network="conv(width=4, depth=2)"
    )
    found = transfer([sets[0], another], "mlp(width=2)", data=toy_data(), **OPTIONS)
    assert "the base is frepo in one, random in the other" in found.not_compared


def test_sets_of_one_data_set_are_compared_whatever_their_size(
    sets: list[DistilledSet],
) -> None:
    larger = dd_plugins.distill(
        toy_data(), BASE, steps=1, images_per_class=3, network="conv(width=4, depth=2)"
    )
    found = transfer([sets[0], larger], "mlp(width=2)", data=toy_data(), **OPTIONS)
    assert found.differences
    assert not found.not_compared
    assert [report.images for report in found.sets] == [2, 6]


def test_random_images_take_as_many_values_as_the_set() -> None:
    made = dd_plugins.distill(
        toy_data(),
        "random",
        steps=1,
        images_per_class=2,
        parametrization="packed(factor=2)",
        network="mlp(width=2)",
    )
    found = transfer(made, "mlp(width=2)", data=toy_data(), baselines=True, **OPTIONS)
    (report,) = found.sets
    assert (report.images, report.random_images) == (16, 4)


def test_one_set_and_one_spec_are_lists_of_one(
    sets: list[DistilledSet], tmp_path: Path
) -> None:
    path = sets[0].save(tmp_path / "set")
    for given in (sets[0], path, str(path), [path]):
        found = transfer(given, "mlp(width=2)", data=toy_data(), **OPTIONS)
        (report,) = found.sets
        assert [result.spec for result in report.results][1:] == ["mlp(width=2)"]
        assert not found.not_compared


def test_all_sets_are_checked_before_the_first_is_trained_on(
    sets: list[DistilledSet], tmp_path: Path
) -> None:
    trained: list[str] = []
    options = OPTIONS | {"on_progress": lambda what, *rest: trained.append(what)}
    with pytest.raises(FileError, match="does not exist"):
        transfer([sets[0], tmp_path / "none"], "mlp", data=toy_data(), **options)
    larger = replace(sets[1], images=sets[1].images.repeat(1, 1, 2, 2))
    with pytest.raises(DataError, match="the data must have images of shape"):
        transfer([sets[0], larger], "mlp", data=toy_data(), **options)
    with pytest.raises(OptionError, match="smaller depth"):
        transfer(sets, ["mlp", "conv(depth=9)"], data=toy_data(), **options)
    assert trained == []
