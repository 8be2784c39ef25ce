"""Every choice of a run is settled: by the user, the method, the data, the library."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_runs import doing, small_settled

from dd_plugins.api import (
    RunOptions,
    Task,
    Transform,
    get_distiller,
    get_network,
    settle,
)
from dd_plugins.testing import toy_data

METHODS = [
    "frepo",
    "dsa",
    "dm",
    "random",
    "herding",
    "clip(dm)",
    "rotated(frepo, turns=2)",
    "metadd(dsa)",
]


@pytest.mark.parametrize("spec", METHODS)
def test_settling_completes_every_option_and_settles_nothing_twice(spec: str) -> None:
    asked, data = RunOptions(distiller=spec), toy_data()
    before = vars(data).copy()
    settled = settle(asked, data, device="cpu")
    complete = settled.options.arguments()
    assert [name for name, value in complete.items() if value in (None, "auto")] == []
    assert asked == RunOptions(distiller=spec)
    assert {name: vars(data)[name] for name in before} == before
    again = settle(settled.options, data, device="cpu")
    assert again.options == settled.options
    assert again.distiller == settled.distiller


def test_what_is_settled_is_told_in_two_ways_that_agree() -> None:
    settled = settle(RunOptions("frepo"), toy_data(), device="cpu")
    options = settled.options
    assert repr(settled.distiller) == options.distiller
    assert repr(settled.network.for_distillation()) == options.network
    assert repr(settled.parametrization) == options.parametrization
    assert str(settled.initial_images) == options.initial_images
    assert str(settled.precision) == f"torch.{options.precision}"
    assert settled.data.preprocessing == options.preprocessing
    assert settled.task.mirror == settled.data.mirror == options.mirror
    assert settled.device == torch.device("cpu")


CHOOSING = doing(
    default_steps=lambda self, task: 77,
    default_network=lambda self, task, device: get_network("mlp(width=9)"),
    preprocessing=lambda self, task: "zca",
    initial_images=property(lambda self: "noise"),
)


@pytest.mark.parametrize(
    ("name", "users", "methods"),
    [
        ("steps", 5, 77),
        ("network", "mlp(width=3)", "mlp(width=9)"),
        ("preprocessing", "standardize", "zca"),
        ("initial_images", "real", "noise"),
    ],
)
def test_the_user_goes_before_the_method(name: str, users: Any, methods: Any) -> None:
    def settled(**options: Any) -> Any:
        given = RunOptions(repr(CHOOSING), **options)
        found = settle(given, toy_data(), device="cpu", distiller=CHOOSING)
        return getattr(found.options, name)

    assert settled(**{name: users}) == users
    assert settled() == methods


def test_the_method_goes_before_the_data_and_data_before_the_library() -> None:
    silent = doing()
    by_data = settle(RunOptions(), toy_data(), device="cpu", distiller=silent)
    assert by_data.options.preprocessing == "standardize"
    assert by_data.options.mirror is False
    assert by_data.network == get_network("conv")
    assert by_data.options.steps == 1_000
    flipped = replace(toy_data(), mirror=True)
    assert small_settled(silent, flipped).task.mirror is True
    assert small_settled(silent, flipped, mirror=False).task.mirror is False


def test_objects_go_before_what_the_options_name() -> None:
    asked = RunOptions("frepo", network="conv")
    given = {"distiller": get_distiller("dm"), "network": get_network("mlp(width=3)")}
    settled = settle(asked, toy_data(), device="cpu", **given)
    assert settled.options.distiller == "dm"
    assert settled.options.network == "mlp(width=3)"
    assert settled.network is given["network"]


@pytest.mark.parametrize(
    ("asked", "kept"), [(None, True), ("zca", False), ("standardize", False)]
)
def test_a_map_that_data_bring_yields_to_the_user_alone(asked: Any, kept: bool) -> None:
    given = Transform(torch.tensor([0.25]), torch.tensor([0.5]))
    data = toy_data().with_transform(given)
    settled = small_settled(CHOOSING, data, preprocessing=asked)
    assert (settled.data.transform is given) is kept
    assert settled.options.preprocessing == (asked or given.kind)
    assert data.transform is given


def test_the_method_is_told_the_whole_task() -> None:
    seen: list[Task] = []

    def for_task(self: Any, task: Task) -> Any:
        seen.append(task)
        return replace(self, gradient=3.0)

    settled = settle(
        RunOptions(images_per_class=2, parametrization="packed(factor=2)", steps=9),
        toy_data(),
        device="cpu",
        context_labels=[1] * 5,
        distiller=doing(for_task=for_task),
    )
    assert seen == [settled.task]
    told = Task("toy", (1, 8, 8), 2, 8, 9, False, 5, 1, images_per_stored=4)
    assert seen[0] == told
    assert seen[0].synthetic_images == 5 + 8
    assert settled.options.images_per_class == 2, "of stored images"
    assert settled.options.distiller == repr(settled.distiller) == "told(gradient=3.0)"
