"""Rotated images are classes of their own, and what is learned comes back right."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import dd_plugins
from dd_plugins.data.real import RealData
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import LabelKind
from dd_plugins.distillers.dm import DM
from dd_plugins.distillers.frepo import FRePo
from dd_plugins.distillers.state import AbstractState, Metrics, NoState
from dd_plugins.errors import OptionError
from dd_plugins.functional.kernel_regression import centred_targets
from dd_plugins.networks.conv import Conv
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.wrappers.clip import Clip
from dd_plugins.wrappers.rotated import Rotated, RotatedState, rotated_labels

CPU = torch.device("cpu")
SEEN: list[tuple[Leaves, RealSampler]] = []


@record
class Weighed(DM):
    """A base of which every pixel and label has a gradient that is known."""

    name = "weighed"

    @property
    def label_kind(self) -> LabelKind:
        return "regression"

    def initial_labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Their scale depends on the number of classes, as with ``frepo``."""
        return centred_targets(labels, num_classes) / num_classes

    def accumulate(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        SEEN.append((leaves, real))
        loss = sum((leaf * weights(leaf)).sum() for leaf in leaves.learned())
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}


def weights(leaf: Tensor) -> Tensor:
    return torch.arange(leaf.numel()).view(leaf.shape).to(leaf)


def _setting(turns: int) -> tuple[Rotated, AbstractState, Leaves, RealSampler]:
    run = Run(Task("toy", (1, 6, 6), 3, 1), "turned", Conv(width=4, depth=1), 5, 0, CPU)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    images = torch.rand(30, 1, 6, 6, generator=generator)
    real = RealSampler(images, labels, seed=0, device=CPU)
    wrapper = Rotated(base=Weighed(), turns=turns).for_task(run.task)  # type: ignore[arg-type]
    leaves = Leaves(
        torch.rand(3, 1, 6, 6, generator=generator).requires_grad_(),
        wrapper.initial_labels(torch.arange(3), 3).requires_grad_(),
        torch.arange(3),
    )
    SEEN.clear()
    return wrapper, wrapper.setup(run, real), leaves, real


@pytest.mark.parametrize("turns", [2, 4])
def test_gradient_is_that_of_the_images_through_their_turns(turns: int) -> None:
    wrapper, state, leaves, real = _setting(turns)
    wrapper.accumulate(state, leaves, real, 0)
    ((seen, _),) = SEEN
    assert seen.pixels.shape == (3 * turns, 1, 6, 6)
    assert seen.labels.shape == (3 * turns, 3 * turns)
    # By hand: each copy's weights are turned back and added up.
    per_copy = weights(seen.pixels).chunk(turns)
    by_hand = sum(
        torch.rot90(part, -turn * 4 // turns, (-2, -1))
        for turn, part in enumerate(per_copy)
    )
    assert torch.equal(leaves.pixels.grad, by_hand)  # type: ignore[arg-type]
    blocks = weights(seen.labels).view(turns, 3, turns, 3)
    assert torch.equal(
        leaves.labels.grad,  # type: ignore[arg-type]
        sum(blocks[turn, :, turn] for turn in range(turns)),  # type: ignore[arg-type]
    )


def test_fixed_images_are_fixed_in_every_turn() -> None:
    wrapper, state, leaves, real = _setting(4)
    fixed = torch.tensor([True, False, False])
    wrapper.accumulate(state, replace(leaves, fixed=fixed), real, 0)
    ((seen, _),) = SEEN
    assert seen.fixed is not None
    assert seen.fixed.tolist() == fixed.tolist() * 4


def test_every_turn_of_a_class_is_a_class_of_real_images() -> None:
    wrapper, state, leaves, real = _setting(4)
    wrapper.accumulate(state, leaves, real, 3)
    ((_, turned),) = SEEN
    assert isinstance(wrapper.inner(state), NoState)
    assert state.run.task.num_classes == 12
    assert turned.labels.tolist() == [
        label + 3 * turn for turn in range(4) for label in real.labels.tolist()
    ]
    plain, some = real.batch(3, 20), turned.batch(3, 20)
    assert len(set((some.labels // 3).tolist())) > 1
    for image, label, before, known in zip(*some, *plain, strict=True):
        turn = int(label) // 3
        assert int(label) % 3 == int(known)
        assert torch.equal(image, torch.rot90(before, turn, (-2, -1)))
    one = turned.class_batch(0, 7, 4)  # class 1 in the second turn after none
    assert one.labels.tolist() == [7] * 4
    assert torch.equal(
        one.images, torch.rot90(real.class_batch(0, 1, 4).images, 2, (-2, -1))
    )
    read = turned.read(torch.tensor([5, 35]))
    assert read.labels.tolist() == [2, 5]
    assert torch.equal(read.images[1], torch.rot90(read.images[0], 1, (-2, -1)))


def test_real_images_in_every_turn_have_pixels_and_their_readers_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrapper, state, leaves, real = _setting(4)
    wrapper.accumulate(state, leaves, real, 0)
    ((_, turned),) = SEEN
    indices = torch.tensor([5, 35, 95])
    assert torch.equal(turned.pixels(indices), turned.read(indices).images)
    closed: list[bool] = []
    monkeypatch.setattr(real, "close", lambda: closed.append(True))
    turned.close()
    assert closed == [True]


@pytest.mark.parametrize("kind", ["regression", "probabilities", "classes"])
def test_labels_of_a_turn_are_of_their_kind(kind: LabelKind) -> None:
    labels = torch.eye(3) - 1 / 3 if kind == "regression" else torch.eye(3)
    turned = rotated_labels(labels, 2, 4, kind)
    wanted = torch.zeros(3, 12)
    wanted[:, 6:9] = torch.eye(3)
    if kind == "regression":
        wanted -= 1 / 12
    torch.testing.assert_close(turned, wanted)


def test_predictions_are_for_images_as_they_are() -> None:
    options: dict[str, Any] = {"network": "conv(width=4, depth=2)", "steps": 3}
    seen: list[float] = []

    class Watch:
        @dd_plugins.hookimpl
        def dd_after_step(self, metrics: dict[str, float]) -> None:
            seen.append(metrics["validation_accuracy"])

    plugins = Plugins(extra={"watch": Watch()})
    dd_plugins.distill("digits", "rotated(frepo)", plugins=plugins, **options)
    assert len(seen) == 3
    assert seen[-1] > 0.25  # chance is a tenth; among forty classes it is less


def test_turned_stands_around_any_distiller_itself_included() -> None:
    for spec in ("rotated(turned(frepo(pool_size=1), turns=2), turns=2)", "turned(dm)"):
        distilled = dd_plugins.distill(
            "digits", spec, steps=2, network="conv(width=4, depth=2)"
        )
        assert distilled.labels.shape == (10, 10)


@pytest.mark.parametrize(
    ("held", "images_per_class", "copies"),
    [(0, 1, 7), (0, 3, 3), (60, 1, 1), (200, 1, 0)],
)
def test_options_of_the_base_are_settled_for_all_turns(
    held: int, images_per_class: int, copies: int
) -> None:
    task = Task(
        "toy",
        (1, 8, 8),
        10,
        images_per_class,
        context_images=held,
        context_classes=min(held, 6),
    )
    settled = Rotated(base=FRePo()).for_task(task).base
    assert settled.options()["augmented_copies"] == copies


def test_images_that_are_not_square_have_no_quarter_turns() -> None:
    task = Task("toy", (1, 6, 8), 3, 1)
    with pytest.raises(OptionError, match=r"6x8 .* turns=2"):
        Rotated(base=DM()).for_task(task)
    assert Rotated(base=DM(), turns=2).for_task(task).turns == 2


def test_real_images_stand_in_some_turns_as_beside_a_memory() -> None:
    wrapper, state, leaves, real = _setting(4)
    wrapper = replace(wrapper, current_turns=2, current_images=5)
    turns = set()
    for step in range(6):
        leaves.pixels.grad = leaves.labels.grad = None
        SEEN.clear()
        wrapper.accumulate(state, leaves, real, step)
        ((seen, _),) = SEEN
        assert len(seen.pixels) == 2 * 3 + 2 * 3 * 5
        by_turn = [seen.classes // 3 == turn for turn in range(4)]
        current = [turn for turn in range(4) if by_turn[turn].sum() == 15]
        turns.add(tuple(current))
        by_hand = torch.zeros_like(leaves.pixels)
        for turn, chosen in enumerate(by_turn):
            images = torch.rot90(seen.pixels[chosen], -turn, (-2, -1))
            if turn in current:
                for label in range(3):
                    drawn = real.class_batch(step, label, 5).images
                    own = seen.classes[chosen] == label + 3 * turn
                    assert torch.equal(images[own], drawn)
            else:
                assert torch.equal(images, leaves.pixels)
                weighed = weights(seen.pixels)[chosen]
                by_hand += torch.rot90(weighed, -turn, (-2, -1))
        assert torch.equal(leaves.pixels.grad, by_hand)  # type: ignore[arg-type]
        assert seen.labels.argmax(dim=1).tolist() == seen.classes.tolist()
        labels = [rotated_labels(leaves.labels, t, 4, "regression") for t in range(4)]
        torch.testing.assert_close(seen.labels, torch.cat(labels)[seen.classes])
        assert seen.fixed is not None
        for turn, chosen in enumerate(by_turn):
            assert seen.fixed[chosen].all() == (turn in current)
            assert seen.fixed[chosen].any() == (turn in current)
    assert len(turns) > 1, "drawn anew at each step"


@pytest.mark.parametrize("missing", [0, 2])
def test_a_class_without_real_images_is_synthetic_in_every_turn(missing: int) -> None:
    wrapper, state, leaves, real = _setting(4)
    assert isinstance(state, RotatedState)
    chosen = real.labels != missing
    some = real.read(torch.arange(30)[chosen])
    state.real = RealSampler(some.images, some.labels, seed=0, device=CPU)
    replace(wrapper, current_turns=1, current_images=5).accumulate(
        state, leaves, real, 0
    )
    ((seen, _),) = SEEN
    counts = seen.classes.bincount(minlength=12).view(4, 3)
    assert counts[:, missing].tolist() == [1, 1, 1, 1]
    assert sorted(counts[:, 1].tolist()) == [1, 1, 1, 5]
    own = seen.classes % 3 == missing
    by_hand = sum(
        torch.rot90(each, -int(label) // 3, (-2, -1))
        for each, label in zip(
            weights(seen.pixels)[own], seen.classes[own] - missing, strict=True
        )
    )
    assert torch.equal(leaves.pixels.grad[missing], by_hand)  # type: ignore[index,arg-type]


def test_a_bound_on_the_gradient_counts_no_real_images() -> None:
    _, _, leaves, real = _setting(4)
    run = Run(Task("toy", (1, 6, 6), 3, 1), "turned", Conv(width=4, depth=1), 5, 0, CPU)
    wrapper = Rotated(base=Clip(base=Weighed()), current_turns=3).for_task(run.task)
    metrics = wrapper.accumulate(wrapper.setup(run, real), leaves, real, 0)
    ((seen, _),) = SEEN
    moving = weights(seen.pixels)[~seen.fixed]  # type: ignore[operator]
    torch.testing.assert_close(metrics["gradient_norm"], moving.norm())
    torch.testing.assert_close(leaves.pixels.grad.norm(), torch.tensor(1.0))  # type: ignore[union-attr]


def test_turns_of_real_images_go_with_a_base_that_has_a_state() -> None:
    spec = "rotated(frepo(pool_size=1, real_batch_size=32), current_turns=3)"
    options: dict[str, Any] = {"network": "conv(width=4, depth=2)", "steps": 3}
    first, again = (dd_plugins.distill("digits", spec, **options) for _ in range(2))
    assert torch.equal(first.images, again.images)
    plain = dd_plugins.distill("digits", spec.replace("turns=3", "turns=0"), **options)
    assert not torch.equal(first.images, plain.images)


def test_a_turn_is_left_to_the_synthetic_images() -> None:
    with pytest.raises(OptionError, match="current_turns must be below turns=2, got 2"):
        Rotated(base=DM(), turns=2, current_turns=2).for_task(
            Task("toy", (1, 8, 8), 3, 1)
        )


def test_a_wrapper_without_a_state_stands_around_one_that_has_one() -> None:
    for base in ("rotated(frepo(pool_size=1, real_batch_size=32))", "rotated(dm)"):
        options: dict[str, Any] = {"network": "conv(width=4, depth=2)", "steps": 2}
        plain = dd_plugins.distill("digits", base, **options)
        around = dd_plugins.distill("digits", f"clip({base}, max_norm=1e9)", **options)
        assert torch.equal(plain.images, around.images)


@pytest.mark.parametrize("base", ["sre2l", "rded", "clip(sre2l)"])
def test_a_base_with_a_teacher_is_refused_before_the_run(base: str) -> None:
    options: dict[str, Any] = {"network": "conv(width=4, depth=1)", "steps": 1}
    with pytest.raises(OptionError, match="rotated: expected a distiller without a"):
        dd_plugins.distill("digits", f"rotated({base})", **options)


LEARNED = "mtt(learn_labels=True, student_steps=1, missing_experts='train')"


def test_labels_that_the_base_learns_are_of_upright_images() -> None:
    made = dd_plugins.distill(
        "digits", f"rotated({LEARNED})", network="mlp(width=4)", steps=2
    )
    assert made.header.label_kind == "probabilities"
    torch.testing.assert_close(made.labels.sum(dim=1), torch.ones(10))
    with pytest.raises(OptionError, match="leave out one of the two"):
        dd_plugins.distill(
            "digits",
            f"rotated({LEARNED}, current_turns=1)",
            network="mlp(width=4)",
            steps=2,
        )


def test_missing_experts_of_rotated_images_are_trained_by_the_run_alone() -> None:
    spec = "rotated(mtt(student_steps=1, missing_experts='refuse'))"
    with pytest.raises(OptionError, match="take missing_experts='train'") as refused:
        dd_plugins.distill("digits", spec, network="mlp(width=3)", steps=1)
    assert "train-experts" not in str(refused.value)


def test_labels_of_new_images_are_solved_beside_a_context() -> None:
    spec = "kip(label_solve=True)"
    images, labels = torch.rand(40, 1, 6, 6), torch.arange(40) % 4
    data, old = RealData.from_values(images, labels), labels < 2
    names = data.class_names
    some = RealData.from_values(images[old], labels[old], class_names=names)
    context = dd_plugins.distill(some, spec, steps=1)
    made = dd_plugins.distill(
        data, f"rotated({spec}, turns=2)", context=context, steps=1
    )
    torch.testing.assert_close(made.labels[:2], context.labels)
    assert (made.labels[2:, :2] + 1 / 4).abs().min() > 1e-5, "they are as at the start"
