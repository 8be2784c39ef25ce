"""Scores on validation images: for choices, with the test set unread."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import dd_plugins
from dd_plugins import DistilledSet, RealData
from dd_plugins.errors import DataError, DDWarning, OptionError
from dd_plugins.evaluation.cross_architecture import transfer
from dd_plugins.testing import toy_data

QUICK: dict[str, Any] = {
    "networks": ["mlp(width=4)"],
    "repeats": 2,
    "protocol": "recipe(steps=3)",
}


def _no_test() -> NoReturn:
    raise AssertionError("the test set must not be read")


@pytest.fixture(scope="module")
def data() -> RealData:
    found: RealData = dd_plugins.get_dataset("digits")
    return found


@pytest.fixture(scope="module")
def made(data: RealData) -> DistilledSet:
    return dd_plugins.distill(data, "random", steps=1, network="mlp(width=4)")


def test_the_test_set_stays_unread(made: DistilledSet, data: RealData) -> None:
    unread = replace(data, read_test=_no_test)
    baselines = {"baselines": True, "full_steps": 20}
    found = dd_plugins.evaluate(
        made, data=unread, validation=True, **baselines, **QUICK
    )
    assert found.scored_on == "validation images"
    assert found.test_images == len(data.validation.labels)
    assert "<th>validation accuracy</th>" in found._repr_html_()
    as_test = replace(data, read_test=lambda: data.validation)
    expected = dd_plugins.evaluate(made, data=as_test, **baselines, **QUICK)
    assert replace(found, scored_on="test images") == expected
    moved = transfer([made], data=unread, validation=True, **QUICK)
    assert moved.scored_on == "validation images"
    (report,) = moved.sets
    assert report.results == found.networks


def test_sets_that_saw_the_validation_images_are_refused(
    made: DistilledSet, data: RealData
) -> None:
    def scored(distilled: DistilledSet, data: RealData) -> None:
        dd_plugins.evaluate(distilled, data=data, validation=True, **QUICK)

    whole = dd_plugins.distill(
        data.undivided(), "random", steps=1, network="mlp(width=4)"
    )
    with pytest.raises(OptionError, match="distilled from the validation images too"):
        scored(whole, data)
    private = dd_plugins.distill(
        data, "dp_dm(epsilon=8)", steps=1, network="mlp(width=4)"
    )
    with pytest.raises(OptionError, match="distilled from the validation images too"):
        scored(private, data)
    with pytest.raises(DataError, match="no validation images"):
        scored(whole, data.undivided())
    images = torch.rand(10, 1, 8, 8)
    foreign = DistilledSet.from_tensors(images, torch.arange(10), data)
    with pytest.warns(DDWarning, match="other code made the set"):
        scored(foreign, data)


def test_contexts_that_saw_the_validation_images_are_refused() -> None:
    data = toy_data().with_preprocessing("constant")

    def scored(distilled: DistilledSet) -> None:
        dd_plugins.evaluate(distilled, data=data, validation=True, **QUICK)

    def made(real: RealData, distiller: str = "random", **more: Any) -> DistilledSet:
        return dd_plugins.distill(
            real, distiller, steps=1, network="mlp(width=4)", **more
        )

    def after(context: DistilledSet) -> DistilledSet:
        return made(data, context=context, refine_context=True)

    whole, private = made(data.undivided()), made(data, "dp_dm(epsilon=8)")
    for context in (whole, after(whole), private):
        with pytest.raises(OptionError, match="from the validation images too"):
            scored(after(context))
    scored(after(made(data)))
    images, labels = data.train.images[:60], data.train.labels[:60]
    part = RealData.from_tensors(images, labels, preprocessing="constant")
    with pytest.warns(DDWarning, match="from other data, perhaps from these"):
        scored(after(made(part)))


def test_the_commands_score_on_validation_images(
    in_process: Callable[..., Any],
) -> None:
    options = ["--distiller", "random", "--network", "mlp(width=4)", "--out", "run"]
    assert in_process("distill", *options).status == 0
    quick = ["--repeats", 1, "--protocol", "recipe(steps=3)", "--validation"]
    told = in_process("evaluate", "run", *quick, "--json", "scores.json")
    assert told.status == 0, told.stderr
    assert "accuracy on 139 validation images of digits: 1 x" in told.stdout
    figures = json.loads(Path("scores.json").read_text())
    assert (figures["scored_on"], figures["test_images"]) == ("validation images", 139)
    told = in_process("transfer", "run", "--networks", "mlp(width=8)", *quick)
    assert told.status == 0, told.stderr
    assert "on validation images" in told.stdout


def test_a_teacher_that_nobody_knows_is_warned_of() -> None:
    data = toy_data()
    made = dd_plugins.distill(data, "random", steps=1, network="mlp(width=2)")
    teacher = dd_plugins.get_network("mlp(width=2)").build(
        data.image_shape, data.num_classes, generator=torch.Generator()
    )
    taught = dd_plugins.api.relabel(
        made, teacher.eval(), views="views(count=2)", data=data
    )
    with pytest.warns(DDWarning, match="a module labelled the set"):
        dd_plugins.evaluate(
            *(taught, "mlp(width=2)"),
            repeats=1,
            data=data,
            validation=True,
            protocol="recipe(steps=1)",
        )
