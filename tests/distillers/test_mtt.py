"""MTT: its gradient against the maths, its window, labels, experts and refusals."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dd_plugins
from dd_plugins.api import (
    OptionError,
    RealSampler,
    Run,
    Task,
    UnknownNameError,
    get_network,
)
from dd_plugins.data.draws import sampler_of
from dd_plugins.distillers.mtt import MTT, Window
from dd_plugins.distillers.mtt import mtt as mtt_module
from dd_plugins.distillers.mtt.mtt import MTTState
from dd_plugins.distillers.mtt.settings import paper_run
from dd_plugins.distillers.mtt.student import Student, layers_mask
from dd_plugins.functional.augment import siamese_augmentation, siamese_parameters
from dd_plugins.networks.base import batch_statistics
from dd_plugins.synthetic.leaves import Leaves, Parameters
from dd_plugins.testing import toy_data
from dd_plugins.training.recipes import Recipe, classic_recipe
from dd_plugins.training.trajectories import set_weights

CPU = torch.device("cpu")
DATA = toy_data()
CLASSES = DATA.num_classes
NETWORK = get_network("dc_convnet(width=4, depth=2)")
RECIPE = Recipe(steps=8, learning_rate=0.05, optimizer="sgd", momentum=0.0)
SMALL: dict[str, Any] = {
    "experts": 2,
    "expert": RECIPE,
    "snapshot_steps": 2,
    "student_steps": 3,
    "target_distance": 2,
    "difficulty": Window(first=1, last=2),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run_of(**options: Any) -> Run:
    shape = DATA.image_shape
    task = Task(DATA.name, shape, CLASSES, 2, mirror=DATA.mirror)
    return Run(replace(task, **options), "mtt", NETWORK, 5, 0, CPU)


def real() -> RealSampler:
    return sampler_of(DATA, seed=0, device=CPU, precision=torch.float32)[1]


def settled(**options: Any) -> MTT:
    return MTT(**(SMALL | options)).for_task(run_of().task)


def leaves_of(mtt: MTT) -> Leaves:
    classes = torch.arange(CLASSES).repeat_interleave(2)
    images = real().read(mtt.choose(run_of(), real())).images
    labels = mtt.initial_labels(classes, CLASSES)
    others = mtt.learnables(run_of())
    return Leaves(
        images.requires_grad_(),
        labels.requires_grad_(mtt.learn_labels),
        classes,
        {name: each.requires_grad_() for name, each in others.items()},
    )


def accumulated(mtt: MTT, step: int = 0) -> tuple[MTTState, Leaves, dict[str, Tensor]]:
    state, leaves = mtt.setup(run_of(), real()), leaves_of(mtt)
    return state, leaves, mtt.accumulate(state, leaves, real(), step)


def unrolled_by_hand(
    state: MTTState, leaves: Leaves, mtt: MTT, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of MTT's algorithm 1, over modules, and its gradients."""
    run = state.run
    generator = run.own_generator("expert and start", step)
    expert = int(torch.randint(0, 2, (), generator=generator))
    first = int(torch.randint(1, 3, (), generator=generator))
    start, target = (state.experts[expert][n] for n in (first, first + 2))
    pixels = leaves.pixels.detach().requires_grad_()
    size = leaves.others["log_step_size"].detach().exp().requires_grad_()
    module = run.fresh_network(torch.Generator())
    set_weights(module, start)
    names = [name for name, _ in module.named_parameters()]
    weights = [each.detach().requires_grad_() for each in module.parameters()]
    for number in range(3):
        images = pixels
        if mtt.augment:
            drawn = run.own_generator(f"student's augmentation {number}", step)
            parameters = siamese_parameters(
                drawn, images=len(pixels), mirror=run.task.mirror
            )
            images = siamese_augmentation(pixels, parameters)
        logits = torch.func.functional_call(
            module, dict(zip(names, weights, strict=True)), (images,)
        )
        loss = F.cross_entropy(logits, leaves.labels)
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        weights = [
            one - size * other for one, other in zip(weights, gradients, strict=True)
        ]
    flat = torch.cat([each.flatten() for each in weights])
    distance = (flat - target).square().sum() / (start - target).square().sum()
    by_pixels, by_size = torch.autograd.grad(distance, [pixels, size])
    return distance.detach(), by_pixels, by_size * size.detach()


@pytest.mark.parametrize("augment", [True, False])
def test_the_unrolled_gradient_is_that_of_the_paper_s_algorithm(augment: bool) -> None:
    mtt = settled(memory="unrolled", augment=augment)
    state, leaves, metrics = accumulated(mtt, step=4)
    loss, by_pixels, by_log = unrolled_by_hand(state, leaves, mtt, 4)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-4)
    assert leaves.pixels.grad is not None
    torch.testing.assert_close(leaves.pixels.grad, by_pixels, rtol=1e-3, atol=1e-6)
    given = leaves.others["log_step_size"].grad
    assert given is not None
    torch.testing.assert_close(given, by_log, rtol=1e-3, atol=1e-6)


def test_constant_memory_has_the_same_loss_and_a_near_gradient() -> None:
    found = {}
    for memory in ("constant", "unrolled"):
        _, leaves, metrics = accumulated(settled(memory=memory))
        assert leaves.pixels.grad is not None
        found[memory] = float(metrics["loss"]), leaves.pixels.grad.flatten()
    (loss, gradient), (same, exact) = found.values()
    assert loss == pytest.approx(same, rel=1e-5)
    assert F.cosine_similarity(gradient, exact, dim=0) > 0.9


def test_batches_take_every_image_once_before_any_again() -> None:
    run = run_of()
    pixels = torch.arange(6.0).view(6, 1, 1, 1)
    student = Student(
        run, run.fresh_network(torch.Generator()), pixels, pixels, 4, False, 0
    )
    epochs = [[student._chosen(2 * e + b).tolist() for b in (0, 1)] for e in (0, 1)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 2]
        assert sorted(itertools.chain(*epoch)) == list(range(6))
    assert epochs[0] != epochs[1]


def test_a_window_grows() -> None:
    window = Window(1, 3, grows_to=7, steps=8)
    assert [window.at(step) for step in (0, 2, 4, 8, 99)] == [
        (1, 3),
        (1, 4),
        (1, 5),
        (1, 7),
        (1, 7),
    ]
    assert Window(0, 2).at(50) == (0, 2)
    even = Window(0, 0, grows_to=100, steps=100)
    assert [even.at(step)[1] for step in range(101)] == list(range(101))
    for wrong in ({"first": 3, "last": 2}, {"last": 3, "grows_to": 2, "steps": 1}):
        with pytest.raises(OptionError, match="must be at least"):
            Window(**wrong)
    for alone in ({"grows_to": 9}, {"steps": 5}):
        with pytest.raises(OptionError, match="go together"):
            Window(last=2, **alone)
    spec = "mtt(difficulty=window(0, 3, grows_to=6, steps=10))"
    assert dd_plugins.get_distiller(spec).difficulty == Window(
        0, 3, grows_to=6, steps=10
    )


def test_starts_are_drawn_from_the_window() -> None:
    mtt = settled(difficulty=Window(0, 0, grows_to=2, steps=100))
    state = mtt.setup(run_of(), real())
    asked: list[int] = []

    class Watched:
        def __getitem__(self, number: int) -> Tensor:
            asked.append(number)
            return state.experts[0][number]

    watching = replace(state, experts=[Watched()])
    for step in (0, 1, 2, *range(200, 230)):
        mtt.accumulate(watching, leaves_of(mtt), real(), step)
    starts = asked[::2]
    assert starts[:3] == [0, 0, 0]
    assert set(starts[3:]) == {0, 1, 2}
    assert asked[1::2] == [start + 2 for start in starts]


class Preferring:
    """Snapshots of an expert whose head adds five to the logit of a class."""

    def __init__(self, snapshots: Any, label: int) -> None:
        self.snapshots, self.label = snapshots, label

    def __len__(self) -> int:
        return len(self.snapshots)

    def __getitem__(self, number: int) -> Tensor:
        weights: Tensor = self.snapshots[number].clone()
        weights[len(weights) - CLASSES + self.label] += 5  # the last is its bias
        return weights


def test_learned_labels_start_as_the_mean_of_experts_that_are_right() -> None:
    mtt = settled(learn_labels=True, threshold=1e9)
    state, leaves = mtt.setup(run_of(), real()), leaves_of(mtt)
    # Experts whose heads prefer one class each: each is right about one class alone.
    experts = enumerate(state.experts)
    state.experts = [Preferring(each, label) for label, each in experts]
    mtt.accumulate(state, leaves, real(), 0)
    assert leaves.labels.grad is not None
    assert leaves.labels.grad.abs().max() > 0
    assert leaves.labels.grad.sum(dim=1).abs().max() < 1e-5  # a softmax's
    module = run_of().fresh_network(torch.Generator()).eval()
    logits = []
    for snapshots in state.experts:
        set_weights(module, snapshots[4])
        logits.append(module(leaves.pixels).detach())
    counts = set()
    for number, label in enumerate(leaves.classes):
        right = [each[number] for each in logits if each[number].argmax() == label]
        counts.add(len(right))
        mean = torch.stack(right or [each[number] for each in logits]).mean(dim=0)
        torch.testing.assert_close(
            mtt.labels(state, leaves.detached())[number],
            mean.softmax(dim=0),
            rtol=1e-4,
            atol=1e-5,
        )
    assert counts == {1}


def test_the_first_step_keeps_labels_that_are_learned_already() -> None:
    mtt = settled(learn_labels=True)
    late, leaves = mtt.setup(run_of(), real()), leaves_of(mtt)
    moved = torch.randn(leaves.labels.shape, generator=torch.Generator().manual_seed(3))
    learned = replace(leaves, labels=moved.requires_grad_())
    mtt.accumulate(late, learned, real(), 0)
    first = mtt.setup(run_of(), real())
    mtt.accumulate(first, leaves, real(), 0)
    assert torch.equal(mtt.labels(late, learned), mtt.labels(first, learned))


def test_experts_with_batch_norm_judge_by_the_statistics_of_the_set() -> None:
    network = get_network("dc_convnet(width=4, depth=2, normalization='batch')")
    run = replace(run_of(), network=network)
    expert = Recipe(steps=60, learning_rate=0.1, optimizer="sgd", batch_size=32)
    mtt = settled(learn_labels=True, expert=expert, snapshot_steps=15)
    state, leaves = mtt.setup(run, real()), leaves_of(mtt)
    mtt.accumulate(state, leaves, real(), 0)
    labels = mtt.labels(state, leaves.detached())
    assert (labels.argmax(dim=1) == leaves.classes).float().mean() > 0.7


def test_experts_judge_a_large_set_in_parts_of_all_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = get_network("dc_convnet(width=4, depth=2, normalization='batch')")
    run, mtt = replace(run_of(), network=network), settled(learn_labels=True, experts=1)
    state, leaves = mtt.setup(run, real()), leaves_of(mtt)
    monkeypatch.setattr(mtt_module, "_JUDGED", CLASSES)  # half of the set
    mtt.accumulate(state, leaves, real(), 0)
    module = run.fresh_network(torch.Generator()).eval()
    set_weights(module, state.experts[0][4])
    for part in range(2):
        assert len(set(leaves.classes[part::2].tolist())) == CLASSES
        with torch.no_grad(), batch_statistics(module):
            logits = module(leaves.pixels[part::2])
        assert torch.equal(state.logits[part::2], logits)


def test_learned_labels_are_probabilities_and_context_keeps_its_own() -> None:
    options = {**SMALL, "learn_labels": True}
    shared: dict[str, Any] = {"steps": 3, "network": NETWORK, "data": DATA}
    first = dd_plugins.distill(distiller=MTT(**options), **shared)
    assert first.header.label_kind == "probabilities"
    torch.testing.assert_close(first.labels.sum(dim=1), torch.ones(CLASSES))
    half = CLASSES // 2
    chosen = torch.tensor(first.header.initial_classes) < half
    header = first.header.model_copy(
        update={
            "initial_classes": list(range(half)),
            "initial_indices": None,
            "stored_images": None,
            "stored_values": None,
        }
    )
    context = replace(
        first, images=first.images[chosen], labels=first.labels[chosen], header=header
    )
    both = dd_plugins.distill(distiller=MTT(**options), context=context, **shared)
    torch.testing.assert_close(both.labels[:half], context.labels, rtol=0, atol=1e-5)
    assert torch.equal(both.images[:half], context.images)


def test_a_loss_above_the_threshold_is_skipped_and_counted() -> None:
    mtt = settled(threshold=1e-6)
    state, leaves, metrics = accumulated(mtt)
    assert leaves.pixels.grad is not None
    assert leaves.pixels.grad.abs().max() == 0
    assert float(leaves.others["log_step_size"].grad) == 0  # type: ignore[arg-type]
    assert (state.skipped, float(metrics["skipped"])) == (1.0, 1.0)
    assert settled().threshold == 2
    assert MTT(preset="paper").for_task(run_of().task).threshold is None
    mtt.accumulate(state, leaves, real(), 1)
    assert state.state_dict()["skipped"] == 2.0
    merged = state.merge([{"skipped": 2.0, "logits": 0}, {"skipped": 4.0, "logits": 0}])
    assert merged["skipped"] == 3.0
    saved = state.state_dict()
    state.load_state_dict(saved)
    for logits in (saved["logits"][:1], saved["logits"] + float("nan")):
        with pytest.raises(ValueError, match="logits: expected"):
            state.load_state_dict(saved | {"logits": logits})


def test_the_step_size_is_learned_and_its_rate_is_that_of_the_papers() -> None:
    mtt = settled(step_size=0.04, step_size_learning_rate=1e-3)
    log = mtt.learnables(run_of())["log_step_size"].requires_grad_()
    parameters = Parameters((torch.zeros(2, requires_grad=True),), (), {"a": log})
    optimizer = mtt.optimizer(parameters)
    by_step_size = 0.7
    log.grad = torch.tensor(by_step_size * 0.04)
    parameters.images[0].grad = torch.zeros(2)
    optimizer.step()
    moved = 0.04 - 1e-3 * by_step_size  # what SGD on the step size itself would do
    assert math.exp(float(log.detach())) == pytest.approx(moved, rel=1e-3)


def test_the_recipe_trains_with_the_learned_step_size() -> None:
    made = dd_plugins.distill(
        DATA, MTT(**SMALL, step_size_learning_rate=1e-2), steps=4, network=NETWORK
    )
    (log,) = made.header.learned["log_step_size"]
    assert math.exp(log) != pytest.approx(0.02, rel=1e-6)
    recipe = dd_plugins.api.get_recipe(made.header.recipe)
    assert recipe.learning_rate == pytest.approx(math.exp(log))
    usual = classic_recipe(len(made))
    assert recipe == replace(usual, learning_rate=recipe.learning_rate)


def test_shallow_layers_are_left_out() -> None:
    network = run_of().fresh_network(torch.Generator())
    assert layers_mask(network, 1.0) is None
    sizes = [(name, each.numel()) for name, each in network.named_parameters()]
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in sizes))
    mask = layers_mask(network, 0.5)
    assert mask is not None
    shallow = layers[: round(len(layers) / 2)]
    expected = [
        float(n.rpartition(".")[0] not in shallow) for n, s in sizes for _ in range(s)
    ]
    assert mask.tolist() == expected
    least = layers_mask(network, 1e-6)
    assert least is not None
    assert least.sum() == sizes[-1][1] + sizes[-2][1]  # the head
    _, every, _ = accumulated(settled())
    _, some, _ = accumulated(settled(match_layers=0.5))
    assert every.pixels.grad is not None
    assert not torch.equal(every.pixels.grad, some.pixels.grad)


def test_weights_that_the_network_does_not_train_stay() -> None:
    network = run_of().fresh_network(torch.Generator())
    frozen, *_ = network.parameters()
    frozen.requires_grad_(False)
    pixels, labels = torch.rand(2, *DATA.image_shape), torch.eye(2)
    student = Student(run_of(), network, pixels, labels, 2, False, 0)
    gradient = student(0, student.weights(), create_graph=False)
    assert not gradient[: frozen.numel()].any()
    assert gradient[frozen.numel() :].any()


def test_kept_experts_are_used_and_missing_ones_may_be_refused(cache: Path) -> None:
    with pytest.raises(OptionError, match=r"2 of 2 experts .* train-experts --dataset"):
        settled(missing_experts="refuse").setup(run_of(), real())
    settled().setup(run_of(), real())
    files = sorted(cache.iterdir())
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    settled(missing_experts="refuse").setup(run_of(), real())
    assert [file.stat().st_mtime_ns for file in sorted(cache.iterdir())] == times
    settled(way_points=2).setup(run_of(), real())
    assert len(list(cache.iterdir())) == 4


def test_wrong_input_gets_its_line() -> None:
    with pytest.raises(OptionError, match="experts need at least 16 training steps"):
        settled(difficulty=Window(last=6)).setup(run_of(), real())
    with pytest.raises(OptionError, match=r"need about .* GB with memory='unrolled'"):
        settled(memory="unrolled", student_steps=10**9).setup(run_of(), real())
    with pytest.raises(OptionError, match="GB with memory='constant', more than there"):
        settled(student_steps=10**9).setup(run_of(), real())
    with pytest.raises(UnknownNameError, match="unknown difficulty of mtt"):
        dd_plugins.get_distiller("mtt(difficulty=fc(depth=1))")


def test_the_paper_s_settings_are_those_of_the_nearest_set() -> None:
    def chosen(classes: int, images: int) -> tuple[float | None, ...]:
        found = paper_run(Task("x", (3, 32, 32), classes, images))
        assert found.difficulty.first == 0
        assert found.difficulty.grows_to is None
        return (
            found.student_steps,
            found.target_distance,
            found.difficulty.last + 1,  # max_start_epoch, which is left out there
            found.learning_rate,
            found.step_size,
            found.step_size_learning_rate,
            found.batch_size,
        )

    assert chosen(10, 1) == (50, 2, 2, 100.0, 0.01, 1e-7, None)
    assert chosen(10, 20) == (30, 2, 20, 100.0, 0.001, 1e-5, None)
    assert chosen(20, 50) == (30, 2, 40, 1000.0, 0.001, 1e-5, None)
    assert chosen(100, 1) == (20, 3, 20, 1000.0, 0.01, 1e-5, None)
    assert chosen(100, 10) == (20, 2, 20, 1000.0, 0.01, 1e-5, None)
    assert chosen(100, 50) == (80, 2, 40, 1000.0, 0.01, 1e-5, 125)
    assert chosen(200, 1) == (10, 2, 10, 10_000.0, 0.01, 1e-4, None)
    assert chosen(200, 10) == (20, 2, 40, 10_000.0, 0.01, 1e-4, 200)
    assert chosen(200, 50) == (20, 2, 40, 10_000.0, 0.01, 1e-4, 300)
    paper = MTT(preset="paper").for_task(run_of().task)
    assert (paper.experts, paper.default_steps(run_of().task)) == (100, 5_000)
    trajectory = paper._trajectories(run_of(), real())[0]
    assert len(trajectory.steps) == 51
    assert trajectory.every == max(1, len(DATA.train.labels) // 256)
    assert trajectory.trained.recipe.momentum == 0
    assert trajectory.trained.recipe.learning_rate == 0.01
    often = replace(paper, snapshot_steps=1)._trajectories(run_of(), real())[0]
    assert often.trained.recipe.steps == trajectory.trained.recipe.steps
    assert MTT().preprocessing(run_of().task) is None
    assert MTT().preprocessing(Task("x", (3, 8, 8), 2, 1)) == "pixel-zca"
    assert MTT().preprocessing(Task("x", (3, 1, 200), 2, 1)) is None
    assert MTT().preprocessing(Task("x", (3, 64, 64), 2, 1)) is None
