"""The base of MetaDD under several architectures: balanced, in turn, and kept apart."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dd_plugins
from dd_plugins import get_distiller
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.dm import DM
from dd_plugins.distillers.frepo import FRePo
from dd_plugins.distillers.mtt import MTT, Window
from dd_plugins.distillers.online_models import OnlineModel
from dd_plugins.errors import OptionError
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.mlp import MLP
from dd_plugins.networks.vgg import VGG11
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.testing import toy_data
from dd_plugins.training.recipes import Recipe
from dd_plugins.wrappers.metadd import LearningState, MetaDD
from dd_plugins.wrappers.metadd.members import add_balanced

CPU = torch.device("cpu")
TASK = Task("toy", (1, 8, 8), 3, 2)
OTHERS = (VGG11(width=4), MLP(width=4))


def gradients(base: AbstractDistiller, **options: object) -> MetaDD:  # type: ignore[type-arg]
    return MetaDD(base=base, networks=OTHERS, variant="gradients", start=0, **options)  # type: ignore[arg-type]


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def leaves_of(base: AbstractDistiller) -> Leaves:  # type: ignore[type-arg]
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    labels = base.initial_labels(classes, 3)
    return Leaves(
        images(6, 0).requires_grad_(),
        labels.requires_grad_(base.learns_labels),
        classes,
    )


def real() -> RealSampler:
    return RealSampler(images(30, 1), torch.arange(30) % 3, seed=0, device=CPU)


def run_of() -> Run:
    return Run(TASK, "metadd", Conv(width=4, depth=2), 10, 0, CPU)


def test_pixels_of_each_class_and_labels_are_averaged_at_equal_length() -> None:
    classes = torch.tensor([0, 1, 1])
    generator = torch.Generator().manual_seed(0)

    def leaves(scale: float) -> Leaves:
        made = Leaves(
            torch.zeros(3, 1, 2, 2, requires_grad=True),
            torch.zeros(3, 2, requires_grad=True),
            classes,
        )
        for tensor in (made.pixels, made.labels):
            tensor.grad = scale * torch.randn(tensor.shape, generator=generator)
        return made

    own, others = leaves(1.0), [leaves(100.0), leaves(1e-3)]
    assert own.pixels.grad is not None
    before = own.pixels.grad.clone()
    labels = [each.labels.grad for each in (own, *others)]
    assert labels[0] is not None
    labels[0] = labels[0].clone()
    add_balanced(own, others, 0.5)

    for members in ([0], [1, 2]):  # the images of a class
        wanted = before[members].norm()
        expected = before[members].clone()
        for other in others:
            assert other.pixels.grad is not None
            added = other.pixels.grad[members]
            expected += 0.5 * wanted / added.norm() * added
        torch.testing.assert_close(own.pixels.grad[members], expected / 2)
    unit = [each / each.norm() for each in labels if each is not None]
    mean = labels[0].norm() * (unit[0] + 0.5 * unit[1] + 0.5 * unit[2]) / 2
    torch.testing.assert_close(own.labels.grad, mean)


def test_equal_gradients_stay_as_they_are() -> None:
    own, other = leaves_of(DM()), leaves_of(DM())
    for each in (own, other):
        each.pixels.grad = images(6, 5)
    add_balanced(own, [other], 3.0)
    torch.testing.assert_close(own.pixels.grad, images(6, 5))


def test_images_that_do_not_move_count_in_no_length() -> None:
    fixed = torch.tensor([True, False, False, False, True, False])
    few, whole = [], []
    for seed in (5, 6):
        made = replace(leaves_of(DM()), fixed=fixed)
        made.pixels.grad, made.labels.grad = images(6, seed), torch.ones(6, 3)
        made.labels.grad[fixed] = 100.0
        whole.append(made)
        moving = Leaves(
            made.pixels[~fixed].detach(), made.labels[~fixed], made.classes[~fixed]
        )
        moving.pixels.grad = made.pixels.grad[~fixed]
        moving.labels.grad = made.labels.grad[~fixed]
        few.append(moving)
    add_balanced(few[0], few[1:], 2.0)
    add_balanced(whole[0], whole[1:], 2.0)
    for own, alone in (
        (whole[0].pixels, few[0].pixels),
        (whole[0].labels, few[0].labels),
    ):
        assert own.grad is not None
        torch.testing.assert_close(own.grad[~fixed], alone.grad)


@pytest.mark.parametrize("base", [DM(real_batch_size=8), FRePo(pool_size=2)])
def test_architectures_take_turns_each_in_a_run_of_its_own(
    base: AbstractDistiller,  # type: ignore[type-arg]
) -> None:
    distiller = gradients(base, every=2)
    state = distiller.setup(run_of(), real())
    seeds = {member.state.run.seed for member in state.members}
    assert len(seeds | {state.run.seed}) == 3
    assert [member.state.run.network for member in state.members] == [
        network.for_distillation() for network in OTHERS
    ]
    taken = []
    for step in range(8):
        leaves = leaves_of(base)
        alone = leaves_of(base)
        # What the base gives before it advances, and what is added to it.
        copy = distiller.setup(run_of(), real())
        copy.load_state_dict(state.state_dict())
        base.accumulate(copy.base, alone, real(), step)
        distiller.accumulate(state, leaves, real(), step)
        assert leaves.pixels.grad is not None
        assert alone.pixels.grad is not None
        same = torch.allclose(leaves.pixels.grad, alone.pixels.grad, rtol=1e-4)
        assert same == (step % 2 == 1)
        distiller.advance(state, leaves_of(base), step)
        taken.append([member.steps for member in state.members])
    assert taken == [[1, 0], [1, 0], [1, 1], [1, 1], [2, 1], [2, 1], [2, 2], [2, 2]]


def test_all_architectures_may_take_part_in_each_step() -> None:
    distiller = gradients(DM(real_batch_size=8), drawn=2)
    state = distiller.setup(run_of(), real())
    leaves = leaves_of(distiller.base)
    for step in range(3):
        distiller.accumulate(state, leaves, real(), step)
        distiller.advance(state, leaves, step)
    assert [member.steps for member in state.members] == [3, 3]


def test_members_of_several_processes_are_merged_and_restored() -> None:
    distiller = gradients(FRePo(pool_size=4, augment=False, augmented_copies=0))
    states = []
    for rank in range(2):
        state = distiller.setup(replace(run_of(), rank=rank, ranks=2), real())
        for step in range(3):
            leaves = leaves_of(distiller.base)
            distiller.accumulate(state, leaves, real(), step)
            distiller.advance(state, leaves, step)
        states.append(state)
    merged = states[0].merge([state.state_dict() for state in states])
    assert [list(each["pool"]) for each in merged["members"]] == [[0, 1, 2, 3]] * 2
    whole = distiller.setup(run_of(), real())
    whole.load_state_dict(merged)
    assert [member.steps for member in whole.members] == [2, 1]
    for number, member in enumerate(whole.members):
        for slot, model in member.state.pool.items():  # type: ignore[attr-defined]
            source = states[slot % 2].members[number].state.pool[slot]  # type: ignore[attr-defined]
            assert model.updates == source.updates
    wrong = merged | {"member_steps": [-1, 0]}
    with pytest.raises(ValueError, match=r"member_steps.0 must be at least 0, got -1"):
        whole.load_state_dict(wrong)


def test_learning_networks_are_trained_on_the_set_in_turn_and_replaced() -> None:
    distiller = MetaDD(
        base=DM(real_batch_size=8),
        networks=(VGG11(width=4), Conv(width=4, depth=2)),
        auxiliaries="learning",
        every=1,
        start=0,
        seeds=2,
    )
    state, leaves = distiller.setup(run_of(), real()), leaves_of(DM())
    assert isinstance(state, LearningState)
    learning = state.learning
    assert learning is not None
    ages = [model.updates for model in learning.pool.values()]
    assert ages == [0, 16, 33, 50, 66, 83]  # three architectures, two of each
    before = {
        slot: [each.clone() for each in model.tensors()]
        for slot, model in learning.pool.items()
    }
    for step in range(6):
        metrics = distiller.accumulate(state, leaves, real(), step)
        assert metrics["meta_loss"].isfinite()
        distiller.advance(state, leaves, step)
        for slot, model in learning.pool.items():
            same = all(map(torch.equal, before[slot], model.tensors()))
            assert same == (slot > step), "one network in each step"
    learning.pool[0].updates = 100
    weights = [each.clone() for each in learning.pool[0].network.parameters()]
    distiller.advance(state, leaves, 6)
    assert learning.pool[0].updates == 0
    assert not all(map(torch.equal, weights, learning.pool[0].network.parameters()))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "metadd(dm, variant='real_features', auxiliaries='learning')",
            "auxiliaries='learning' is for the variants paper, variance",
        ),
        (
            "metadd(dm, variant='gradients', weight=1)",
            "expected no weight, got 1.0",
        ),
        *(
            (f"metadd(dm, variant='gradients', {option})", f"expected no {name}, got")
            for name, option in (
                ("augment", "augment=False"),
                ("miner", "miner='MultiSimilarityMiner'"),
                ("stages", "stages=(5,)"),
                ("seeds", "seeds=3"),
            )
        ),
        (
            "metadd(dm, auxiliaries='learning', stages=(5,))",
            r"expected no stages, got \(5,\)",
        ),
    ],
)
def test_options_without_use_are_refused(spec: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        get_distiller(spec)


def test_a_base_that_no_network_shapes_has_no_other_architectures() -> None:
    with pytest.raises(OptionError, match="none shapes the set of kip"):
        dd_plugins.distill(
            toy_data(),
            "metadd(kip(real_batch_size=16), variant='gradients')",
            steps=1,
            network="mlp(width=4)",
        )


def test_the_pace_depends_on_the_variant() -> None:
    settled = get_distiller("metadd(dm, variant='gradients')").for_task(TASK)
    assert isinstance(settled, MetaDD)
    assert (settled.rho, settled.every, settled.start) == (1.0, 1, 0)
    other = get_distiller("metadd(dm, rho=2)").for_task(replace(TASK, steps=40))
    assert isinstance(other, MetaDD)
    assert (other.rho, other.every, other.start) == (2.0, 4, 20)


def test_learning_networks_are_saved_and_those_without_use_are_not_made() -> None:
    networks = (VGG11(width=4), Conv(width=4, depth=2))
    for variant, count in (("paper", 3), ("variance", 2)):
        distiller = MetaDD(
            base=DM(real_batch_size=8),
            networks=networks,
            variant=variant,  # type: ignore[arg-type]
            auxiliaries="learning",
            every=1,
            start=0,
        )
        run = replace(run_of(), network=Conv(width=2, depth=2))
        state, leaves = distiller.setup(run, real()), leaves_of(DM())
        assert isinstance(state, LearningState)
        assert len(state.learning.pool) == count
        for step in range(4):
            distiller.accumulate(state, leaves, real(), step)
            distiller.advance(state, leaves, step)
        again = distiller.setup(replace(run, seed=1), real())
        assert again.learning is not None
        again.load_state_dict(state.state_dict())
        for slot, model in state.learning.pool.items():
            other = again.learning.pool[slot]
            assert other.updates == model.updates
            assert all(map(torch.equal, model.tensors(), other.tensors()))


def test_learning_networks_fit_labels_by_the_loss_of_their_kind() -> None:
    distiller = MetaDD(
        base=DM(real_batch_size=8),
        networks=(Conv(width=4, depth=2), Conv(width=4, depth=1)),
        variant="variance",
        auxiliaries="learning",
        augment=False,
        start=0,
    )
    state, leaves = distiller.setup(run_of(), real()), leaves_of(DM())
    assert isinstance(state, LearningState)
    model = state.learning.pool[0]
    by_hand = copy.deepcopy(model.network).train()
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3)
    loss = F.cross_entropy(by_hand(leaves.pixels.detach()), leaves.classes)
    torch.autograd.backward(loss)
    optimizer.step()
    distiller.advance(state, leaves, 0)
    for found, wanted in zip(
        model.network.parameters(), by_hand.parameters(), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_learning_networks_see_the_labels_of_the_saved_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, str]] = []

    def train(self: OnlineModel, run: Run, view: Tensor, *labels: Any) -> None:
        seen.append(labels)

    monkeypatch.setattr(OnlineModel, "train", train)
    mtt = (
        "mtt(experts=1, student_steps=2, snapshot_steps=2, target_distance=1, "
        "difficulty=window(last=0), learn_labels=True)"
    )
    made = dd_plugins.distill(
        toy_data(validation=0.0),
        f"metadd({mtt}, networks=(conv(width=4, depth=1), conv(width=4, depth=2)), "
        "variant='logit_variance', auxiliaries='learning')",
        steps=2,
        network="conv(width=4, depth=2)",
    )
    assert [kind for _, kind in seen] == ["probabilities"] * 2
    assert torch.equal(seen[-1][0].cpu(), made.labels)


def test_a_member_s_run_has_as_many_steps_as_it_has_turns() -> None:
    distiller = gradients(DM(real_batch_size=8), every=3)
    state = distiller.setup(run_of(), real())  # turns at steps 0, 3, 6 and 9
    assert [member.state.run.steps for member in state.members] == [2, 2]
    distiller = replace(distiller, drawn=2, every=1, start=4)
    state = distiller.setup(run_of(), real())
    assert [member.state.run.steps for member in state.members] == [6, 6]


def test_all_architectures_learn_with_the_labels_of_the_set() -> None:
    recipe = Recipe(steps=4, learning_rate=0.05, optimizer="sgd", momentum=0.0)
    base = MTT(
        experts=1,
        expert=recipe,
        snapshot_steps=2,
        student_steps=1,
        target_distance=1,
        difficulty=Window(first=0, last=1),
        learn_labels=True,
    ).for_task(TASK)
    distiller = replace(gradients(base), networks=(VGG11(width=4),), start=1)
    state, leaves = distiller.setup(run_of(), real()), leaves_of(base)
    leaves.others.update(
        (name, each.requires_grad_())
        for name, each in base.learnables(run_of()).items()
    )
    for step in range(2):  # the member joins in at step 1
        distiller.accumulate(state, leaves, real(), step)
    (member,) = state.members
    assert member.steps == 0
    assert state.base.logits.any()
    assert torch.equal(member.state.logits, state.base.logits)
    labels = base.labels(member.state, leaves)
    assert torch.equal(labels, distiller.labels(state, leaves))


def test_learning_networks_train_on_a_thousand_images_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dd_plugins.wrappers.metadd.auxiliaries.LARGEST_BATCH", 4)
    distiller = MetaDD(
        base=DM(real_batch_size=8),
        networks=(VGG11(width=4), Conv(width=4, depth=2)),
        variant="variance",
        auxiliaries="learning",
        start=0,
        augment=False,
    )
    state, sizes = distiller.setup(run_of(), real()), []
    for model in state.learning.pool.values():
        model.network.body.register_forward_hook(
            lambda *given: sizes.append(len(given[1][0]))
        )
    distiller.advance(state, leaves_of(DM()), 0)
    assert sizes == [4]
