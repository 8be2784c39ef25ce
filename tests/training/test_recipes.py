"""Recipes: learning rates, optimizers, mixed batches, and the specs that say them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dd_plugins.errors import OptionError
from dd_plugins.training.recipes import (
    Recipe,
    classic_recipe,
    frepo_recipe,
    get_recipe,
    post_training_recipe,
    real_data_recipe,
    squeeze_recipe,
)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_rate_rises_linearly_and_falls_as_a_cosine_to_a_hundredth() -> None:
    recipe = Recipe(steps=110, warm_up=10)
    found = [recipe.scale(step) for step in range(111)]
    rising = np.arange(10) / 10
    angle = np.linspace(0, np.pi, 101)
    falling = 0.01 + 0.99 * np.cos(angle / 2) ** 2  # (1 + cos x) / 2 is cos(x / 2)^2
    np.testing.assert_allclose(found, [*rising, *falling], atol=1e-12)


@pytest.mark.parametrize("decay", ["cosine", "half-cosine", "halfway", "none"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_warm_up_takes_half_of_the_steps_at_most(steps: int, decay: Any) -> None:
    """The scheduler also asks for the rate after the last step."""
    for warm_up in range(2 * steps):
        recipe = Recipe(steps=steps, warm_up=warm_up, decay=decay)
        scales = [recipe.scale(step) for step in range(steps + 1)]
        rising = min(warm_up, steps // 2)
        assert scales[:rising] == [step / rising for step in range(rising)]
        assert scales[rising] == 1
        assert scales[rising:] == sorted(scales[rising:], reverse=True)
        last = {"cosine": 0.01, "half-cosine": 0.5, "halfway": 0.1, "none": 1.0}[decay]
        assert scales[-1] == pytest.approx(last)


def test_half_a_cosine_ends_at_a_half() -> None:
    recipe = Recipe(steps=100, decay="half-cosine")
    found = [recipe.scale(step) for step in range(101)]
    expected = [(1 + math.cos(math.pi * step / 200)) / 2 for step in range(101)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_early_stop_leaves_the_schedule_as_it_is() -> None:
    whole, stopped = Recipe(steps=90), Recipe(steps=90, stop_after=20)
    assert [whole.scale(step) for step in range(20)] == [
        stopped.scale(step) for step in range(20)
    ]
    assert (whole.steps_done, stopped.steps_done) == (90, 20)
    assert Recipe(steps=5, stop_after=9).steps_done == 5


def test_teachers_are_squeezed_and_networks_taught_as_published() -> None:
    teacher = squeeze_recipe(5_000, stop_after=100)
    assert (teacher.optimizer, teacher.learning_rate) == ("sgd", 0.1)
    assert (teacher.augmentation, teacher.norm_momentum) == ("crop", 0.1)
    assert (teacher.batch_size, teacher.momentum) == (128, 0.9)
    assert teacher.steps_done == 100
    student = post_training_recipe(500, epochs=3, batch_size=16, temperature=7.0)
    assert student.steps == 3 * 31
    assert (student.optimizer, student.temperature) == ("adamw", 7.0)
    assert not student.scale_loss
    assert post_training_recipe(5, epochs=3, batch_size=16).steps == 3


@pytest.mark.parametrize(
    ("name", "kind", "usual"),
    [
        ("adam", torch.optim.Adam, 0.0),
        ("adamw", torch.optim.AdamW, 0.01),
        ("sgd", torch.optim.SGD, 5e-4),
    ],
)
def test_optimizer_has_its_own_weight_decay_unless_one_is_given(
    name: Any, kind: type, usual: float
) -> None:
    weights = [torch.nn.Parameter(torch.ones(2))]
    for given, expected in ((None, usual), (0.0, 0.0), (0.25, 0.25)):
        recipe = Recipe(3, 0.5, optimizer=name, momentum=0.3, weight_decay=given)
        assert recipe.effective_weight_decay == expected
        made = recipe.make_optimizer(weights)
        assert type(made) is kind
        (group,) = made.param_groups
        assert (group["lr"], group["weight_decay"]) == (0.5, expected)
        assert group.get("momentum", 0.3) == 0.3


UNUSUAL = Recipe(
    steps=7,
    learning_rate=0.2,
    batch_size=3,
    warm_up=2,
    optimizer="adamw",
    momentum=0.5,
    weight_decay=0.125,
    decay="halfway",
    augmentation="dsa",
    temperature=4.0,
    scale_loss=False,
    loss="cross-entropy",
    mix="cutmix",
    stop_after=2,
    average=0.5,
    norm_momentum=0.25,
)


def test_every_option_survives_its_spec() -> None:
    assert get_recipe(repr(UNUSUAL)) == UNUSUAL
    usual = Recipe(steps=7)
    assert repr(usual) == "recipe(steps=7)"
    for option, value in UNUSUAL.options().items():
        one = replace(usual, **{option: value})
        assert get_recipe(repr(one)) == one
        assert f"{option}={value!r}" in repr(one), "every number has its name"


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("recipe(steps=3, temperature=0.0)", "temperature"),
        ("recipe(steps=3, momentum=1.0)", "momentum"),
        ("recipe(steps=3, momentum=-0.1)", "momentum"),
        ("recipe(steps=3, warm_up=-1)", "warm_up"),
        ("recipe(steps=3, weight_decay=-0.5)", "-0.5"),
        ("recipe(steps=3, mix='blend')", "blend"),
        ("recipe(steps=3, average=1.0)", "average"),
        ("recipe(steps=3, norm_momentum=0.0)", "norm_momentum"),
        ("recipe(steps=3, stop_after=0)", "stop_after"),
        ("recipe(steps=3, learning_rate=1e999)", "learning_rate"),
        ("recipe(learning_rate=0.1)", "steps"),
        ("views(count=3)", r"views\(count=3\)"),
    ],
)
def test_options_out_of_their_range_are_refused_by_name(spec: str, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        get_recipe(spec)


def mixed(kind: Any, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, the mixed ones, and in what shares (a row for each mixed one)."""
    images = torch.rand(count, 2, 12, 16, generator=drawn(99), dtype=torch.float64)
    before = images.clone()
    whose = torch.eye(count, dtype=torch.float64)  # of each image per class of its own
    recipe = Recipe(steps=1, mix=kind)
    found, shares = recipe.mixed(images, whose, drawn(seed))
    assert torch.equal(images, before)
    assert torch.equal(whose, torch.eye(count, dtype=torch.float64))
    return images, found, shares


def test_mixup_mixes_pixels_and_labels_in_the_same_shares() -> None:
    firsts = []
    for seed in range(60):
        images, found, shares = mixed("mixup", 5, seed)
        torch.testing.assert_close(found, torch.einsum("ij,jchw->ichw", shares, images))
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(5).double())
        assert ((shares > 0).sum(dim=1) <= 2).all(), "each is mixed with one other"
        torch.testing.assert_close(shares.sum(dim=0), torch.ones(5).double())
        firsts += [float(own) for own in shares.diagonal() if own < 1][:1]
    quarters = np.histogram(firsts, bins=4, range=(0, 1))[0] / len(firsts)
    assert quarters.min() > 0.1, "shares are drawn evenly from [0, 1]"


def test_cutmix_labels_are_the_areas_of_a_box_and_of_what_is_left() -> None:
    heights, widths = set(), set()
    for seed in range(60):
        images, found, shares = mixed("cutmix", 4, seed)
        boxes = []
        for index in range(4):
            own = (found[index] == images[index]).all(dim=0)
            assert own.double().mean() == pytest.approx(float(shares[index, index]))
            if own.all():
                continue
            (other,) = [j for j in range(4) if j != index and shares[index, j] > 0]
            assert torch.equal(found[index][:, ~own], images[other][:, ~own])
            rows, columns = (~own).any(dim=1), (~own).any(dim=0)
            assert torch.equal(~own, rows[:, None] & columns[None]), "one rectangle"
            boxes.append((~own).nonzero())
            heights.add(int(rows.sum()))
            widths.add(int(columns.sum()))
        assert all(torch.equal(box, boxes[0]) for box in boxes)
    assert len(heights) > 6
    assert len(widths) > 6


def test_the_area_of_a_cutmix_box_is_drawn_evenly_before_it_is_cut_at_the_edge() -> (
    None
):
    """A side r = sqrt(u) around a centre anywhere loses r^2 / 4 of it in the mean."""
    areas = [
        float(1 - mixed("cutmix", 3, seed)[2].diagonal().min()) for seed in range(600)
    ]
    drawn_areas = [area for area in areas if area > 0]
    expected = 1 / 2 - 1 / 5 + 1 / 48  # the mean of (r - r^2 / 4)^2
    assert np.mean(drawn_areas) == pytest.approx(expected, abs=0.04)


def test_nothing_is_mixed_or_drawn_without_a_mix() -> None:
    images, labels, generator = torch.rand(3, 1, 4, 4), torch.eye(3), drawn(0)
    state = generator.get_state()
    found = Recipe(steps=1).mixed(images, labels, generator)
    assert found[0] is images
    assert found[1] is labels
    assert torch.equal(generator.get_state(), state)


def test_protocols_are_those_of_the_papers() -> None:
    assert frepo_recipe(100) == Recipe(
        steps=2_000, learning_rate=3e-4, batch_size=500, warm_up=500
    )
    for images, steps in ((1, 1_000), (256, 1_000), (257, 2_000), (513, 3_000)):
        classic = classic_recipe(images)
        assert classic.steps == steps
        epochs = classic.steps / math.ceil(images / classic.batch_size)
        assert epochs == 1_000
        assert (classic.augmentation, classic.decay) == ("dsa", "halfway")
    real = real_data_recipe(57)
    assert (real.steps, real.warm_up) == (57, 5)
