"""FRePo does what its paper and released code do (frepo.py names the differences)."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.frepo import FRePo, workspaces
from dd_plugins.distillers.frepo.defaults import Loss
from dd_plugins.distillers.frepo.frepo import support
from dd_plugins.distillers.frepo.regression import Regression
from dd_plugins.distillers.frepo.workspaces import FRePoState
from dd_plugins.errors import OptionError
from dd_plugins.functional.augment import random_augmentation
from dd_plugins.functional.tangent_kernel import TangentKernel
from dd_plugins.networks.base import has_batch_norm
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.mlp import MLP
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Leaves

CPU = torch.device("cpu")
TASK = Task("toy", (1, 8, 8), 3, 2)


def run_of(network: Conv | MLP | None = None) -> Run:
    network = network or Conv(width=4, depth=2, normalization="batch")
    return Run(TASK, "frepo", network, 10, 0, CPU)


def random_images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def leaves_of(distiller: FRePo) -> Leaves:
    labels = distiller.initial_labels(torch.arange(6) % 3, 3)
    return Leaves(
        random_images(6, 0).requires_grad_(),
        labels.requires_grad_(),
        torch.arange(6) % 3,
    )


def sampler() -> RealSampler:
    return RealSampler(random_images(30, 1), torch.arange(30) % 3, seed=0, device=CPU)


def ages(state: FRePoState) -> list[int]:
    return [model.updates for model in state.pool.values()]


def test_ages_of_the_pool_are_staggered() -> None:
    assert ages(FRePo().setup(run_of(), sampler())) == list(range(0, 100, 10))
    young = FRePo(pool_size=6, max_online_updates=4)
    assert ages(young.setup(run_of(), sampler())) == [0, 0, 1, 2, 2, 3]


def test_models_of_the_pool_are_of_its_architectures_in_turn() -> None:
    others = (MLP(width=4), Conv(width=2, depth=2, normalization="instance"))
    distiller = FRePo(pool_size=4, max_online_updates=1, pool_networks=others)
    assert distiller.architectures == others
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    expected = [4 * 2 * 4, 4, 2 * 2 * 4, 4 * 2 * 4]  # features of each architecture
    for step in range(30):
        widths = [model.network.head.in_features for model in state.pool.values()]
        assert widths == expected
        distiller.accumulate(state, leaves, sampler(), step)
        distiller.advance(state, leaves, step)


def test_architectures_of_the_pool_are_as_for_distilling_and_all_have_room() -> None:
    distiller = FRePo(pool_size=2, pool_networks=(Conv(width=4, depth=2),))
    state = distiller.setup(run_of(), sampler())
    assert all(has_batch_norm(model.network) for model in state.pool.values())
    crowded = FRePo(pool_size=2, pool_networks=(MLP(), MLP(width=4)))
    with pytest.raises(
        OptionError, match="at least 3, a model for each architecture, got 2"
    ):
        crowded.setup(run_of(), sampler())


def test_model_is_replaced_after_one_more_than_the_maximum_of_updates() -> None:
    distiller = FRePo(pool_size=1, max_online_updates=3)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    seen = []
    for step in range(10):
        distiller.advance(state, leaves, step)
        seen.append(ages(state)[0])
    assert seen == [1, 2, 3, 4, 0, 1, 2, 3, 4, 0]


def test_replaced_model_is_new() -> None:
    distiller = FRePo(pool_size=1, max_online_updates=1)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    first = state.pool[0].network.state_dict()["head.weight"].clone()
    for step in range(3):
        distiller.advance(state, leaves, step)
    assert ages(state) == [0]
    second = state.pool[0].network.state_dict()["head.weight"]
    assert not torch.allclose(first, second)


def test_every_place_of_the_pool_is_visited_and_one_at_a_time() -> None:
    distiller = FRePo(pool_size=5)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    before, visited = ages(state), set()
    for step in range(60):
        distiller.advance(state, leaves, step)
        changed = [
            slot
            for slot, (old, new) in enumerate(zip(before, ages(state), strict=True))
            if old != new
        ]
        assert len(changed) == 1
        visited.add(changed[0])
        before = ages(state)
    assert visited == set(range(5))


def squared_error(predicted: Tensor, wanted: Tensor) -> Tensor:
    return (0.5 * (predicted - wanted) ** 2).sum(dim=1).mean()


def least_log_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    smoothing = 1 / (len(wanted) + 2)
    smoothed = (1 - smoothing) * (wanted + 1 / 3) + smoothing / 3

    def at(inverse_temperature: float) -> Tensor:
        logits = inverse_temperature * predicted
        return -(smoothed * logits.log_softmax(dim=1)).sum(dim=1).mean()

    best = minimize_scalar(
        lambda inverse: float(at(inverse).detach()), bounds=(0, 100), method="bounded"
    )
    assert 0.1 < best.x < 50  # the images tell the classes apart
    return at(best.x)


def brighter_by_class(images: Tensor) -> Tensor:
    return images + 2.0 * (torch.arange(len(images)) % 3)[:, None, None, None]


@pytest.mark.parametrize(
    ("flip", "intercept"), [(False, False), (True, False), (True, True)]
)
@pytest.mark.parametrize("learn_labels", [False, True])
@pytest.mark.parametrize("chunk_size", [2_000, 2])
@pytest.mark.parametrize(
    ("loss", "written_out"),
    [("squared-error", squared_error), ("cross-entropy", least_log_loss)],
)
def test_gradient_is_that_of_the_loss(
    flip: bool,
    intercept: bool,
    chunk_size: int,
    learn_labels: bool,
    loss: Loss,
    written_out: Callable[[Tensor, Tensor], Tensor],
) -> None:
    distiller = FRePo(
        pool_size=1,
        flip=flip,
        intercept=intercept,
        learn_labels=learn_labels,
        loss=loss,
        chunk_size=chunk_size,
    )
    real = brighter_by_class(random_images(30, 1))
    data = RealSampler(real, torch.arange(30) % 3, seed=0, device=CPU)
    state, leaves = distiller.setup(run_of(), data), leaves_of(distiller)
    with torch.no_grad():
        leaves.pixels.copy_(brighter_by_class(leaves.pixels))
    distiller.accumulate(state, leaves, data, 0)

    # The same in float64, written out plainly from the paper's equations.
    network = state.pool[0].network.double().eval()
    pixels = leaves.pixels.detach().double().requires_grad_()
    labels = leaves.labels.detach().double().requires_grad_()
    syn, targets = pixels, labels
    if flip:
        syn = torch.cat([pixels, pixels.flip(-1)])
        targets = torch.cat([labels, labels])
    phi_s, phi_t = network.features(syn), network.features(real.double()).detach()
    constant = torch.zeros(3, dtype=torch.float64)
    if intercept:
        constant = targets.mean(dim=0)
        phi_s, phi_t = phi_s - phi_s.mean(dim=0), phi_t - phi_s.mean(dim=0)
        targets = targets - constant
    kernel = phi_s @ phi_s.T
    ridge = 1e-6 * kernel.trace() / len(kernel) * torch.eye(len(kernel))
    predicted = constant + phi_t @ phi_s.T @ torch.linalg.inv(kernel + ridge) @ targets
    wanted = torch.eye(3, dtype=torch.float64)[torch.arange(30) % 3] - 1 / 3
    objective = written_out(predicted, wanted)
    if learn_labels:
        top = labels.sort(dim=1, descending=True).values
        margin = top[:, 0] - top[:, 1]
        objective = objective - torch.minimum(margin, torch.tensor(1 / 3)).mean()
    objective.backward()

    assert leaves.pixels.grad is not None
    assert pixels.grad is not None
    scale = float(pixels.grad.abs().max())
    error = (leaves.pixels.grad - pixels.grad).abs().max()
    assert float(error) < 1e-3 * scale
    if learn_labels:
        torch.testing.assert_close(
            leaves.labels.grad, labels.grad, check_dtype=False, rtol=1e-3, atol=1e-5
        )
    else:
        assert leaves.labels.grad is None


def test_meta_step_leaves_weights_and_statistics_alone() -> None:
    distiller = FRePo(pool_size=2)
    state = distiller.setup(run_of(), sampler())
    before = [
        {name: value.clone() for name, value in model.network.state_dict().items()}
        for model in state.pool.values()
    ]
    distiller.accumulate(state, leaves_of(distiller), sampler(), 0)
    for model, old in zip(state.pool.values(), before, strict=True):
        assert all(weight.grad is None for weight in model.network.parameters())
        for name, value in model.network.state_dict().items():
            assert torch.equal(value, old[name]), name


def test_online_step_is_one_adam_step_on_the_current_labels() -> None:
    distiller = FRePo(pool_size=1, online_learning_rate=0.01)
    state = distiller.setup(run_of(MLP(width=5)), sampler())
    leaves = leaves_of(distiller)
    labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(5))
    reference = MLP(width=5).build((1, 8, 8), 3, generator=torch.Generator())
    reference.load_state_dict(state.pool[0].network.state_dict())
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.01)
    error = reference(leaves.pixels.detach()) - labels
    (error.square().sum(dim=1) / 2).mean().backward()
    optimizer.step()

    distiller.advance(state, replace(leaves, labels=labels), 0)
    for wanted, found in zip(
        reference.parameters(), state.pool[0].network.parameters(), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_online_step_trains_batch_norm_on_the_synthetic_images() -> None:
    distiller = FRePo(pool_size=1)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    norm = state.pool[0].network.body[3]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    body = state.pool[0].network.body[:3]
    mean = body(leaves.pixels).mean(dim=(0, 2, 3)).detach()
    distiller.advance(state, leaves, 0)
    # Momentum 0.9 in torch's sense: nine tenths of the new batch.
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, 0.9 * mean)


def test_visit_keeps_model_and_real_batch_for_its_updates() -> None:
    distiller = FRePo(pool_size=4, updates_per_batch=3)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    before, trained = ages(state), []
    features = []
    for step in range(6):
        distiller.accumulate(state, leaves, sampler(), step)
        assert state.visit is not None
        features.append(state.visit.features)
        distiller.advance(state, leaves, step)
        trained.append(sum(ages(state)) - sum(before))
    assert trained == [0, 0, 1, 1, 1, 2]
    assert features[0] is features[1] is features[2]
    assert features[3] is features[4] is features[5]
    assert not torch.equal(features[2][0], features[3][0])


def test_features_of_a_visit_are_the_same_after_a_restore() -> None:
    distiller = FRePo(pool_size=2, updates_per_batch=4)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    for step in range(2):
        distiller.accumulate(state, leaves, sampler(), step)
        distiller.advance(state, leaves, step)
    assert state.visit is not None
    features = state.visit.features
    state.load_state_dict(state.state_dict())
    distiller.accumulate(state, leaves, sampler(), 2)
    assert state.visit.features is not features
    assert torch.equal(state.visit.features[0], features[0])


def test_model_is_trained_several_times_at_the_end_of_a_visit() -> None:
    distiller = FRePo(pool_size=1, max_online_updates=4, online_steps=3)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    seen = []
    for step in range(4):
        distiller.advance(state, leaves, step)
        seen.append(ages(state)[0])
    assert seen == [3, 0, 3, 0]  # the sixth update would be one too many: replaced


def test_paper_preset_is_the_paper_in_every_option() -> None:
    task = Task("cifar10", (3, 32, 32), 10, 10, steps=600)
    paper = FRePo(preset="paper").for_task(task)
    assert paper.options() | {"flip": None} == {
        "preset": "paper",
        "pool_size": 10,
        "pool_networks": (),
        "max_online_updates": 100,
        "real_batch_size": 1024,
        "updates_per_batch": 1,
        "online_steps": 1,
        "ridge": 1e-6,
        "learning_rate": 3e-4,
        "last_learning_rate": 0.1,
        "online_learning_rate": 3e-4,
        "learn_labels": True,
        "augment": False,
        "augmented_copies": 0,
        "loss": "squared-error",
        "intercept": False,
        "kernel": None,
        "average": 0.0,
        "flip": None,
        "chunk_size": 2_000,
    }
    assert FRePo(preset="paper").default_steps(task) == 500_000
    network = FRePo(preset="paper").default_network(task, CPU)
    assert repr(network) == "conv"


def test_options_that_are_given_stand_in_any_preset() -> None:
    task = Task("cifar10", (3, 32, 32), 10, 10)
    for preset in ("fast", "paper"):
        settled = FRePo(preset=preset, pool_size=3, online_steps=2).for_task(task)
        assert (settled.pool_size, settled.online_steps) == (3, 2)


def shared_run(rank: int, ranks: int) -> Run:
    return replace(run_of(), rank=rank, ranks=ranks)


def test_pool_is_dealt_out_to_the_processes() -> None:
    distiller = FRePo(pool_size=5)
    alone = distiller.setup(run_of(), sampler())
    states = [distiller.setup(shared_run(rank, 2), sampler()) for rank in range(2)]
    assert [list(state.pool) for state in states] == [[0, 2, 4], [1, 3]]
    for state in states:
        for slot, model in state.pool.items():
            one, other = (
                found.network.state_dict()["head.weight"]
                for found in (model, alone.pool[slot])
            )
            assert torch.equal(one, other)


def test_pool_of_two_processes_goes_on_in_one_and_in_three() -> None:
    distiller = FRePo(pool_size=5)
    leaves = leaves_of(distiller)
    states = [distiller.setup(shared_run(rank, 2), sampler()) for rank in range(2)]
    for step in range(4):
        for state in states:
            distiller.advance(state, leaves, step)
    merged = states[0].merge([state.state_dict() for state in states])
    assert list(merged["pool"]) == list(range(5))
    for ranks in (1, 3):
        for rank in range(ranks):
            state = distiller.setup(shared_run(rank, ranks), sampler())
            state.load_state_dict(merged)
            for slot, model in state.pool.items():
                assert model.updates == merged["pool"][slot]["updates"]


def test_more_processes_than_models_are_refused() -> None:
    with pytest.raises(
        OptionError, match="pool_size must be at least 3, a model for each process"
    ):
        FRePo(pool_size=2).setup(shared_run(0, 3), sampler())


def test_large_sets_train_online_models_on_a_thousand_images() -> None:
    distiller = FRePo(pool_size=1)
    state = distiller.setup(run_of(MLP(width=2)), sampler())
    seen = []
    network = state.pool[0].network
    network.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    for count in (999, 1000, 1500):
        images, labels = random_images(count, 0), torch.zeros(count, 3)
        distiller.advance(state, Leaves(images, labels, labels.argmax(dim=1)), 0)
    assert seen == [999, 1000, 1000]


@pytest.mark.parametrize(("classes", "scale"), [(10, 1.0), (100, 10**0.5)])
def test_labels_begin_centred_and_scaled(classes: int, scale: float) -> None:
    labels = FRePo().initial_labels(torch.tensor([3]), classes)
    assert float(labels[0, 3]) == pytest.approx((1 - 1 / classes) / scale)
    assert float(labels[0, 0]) == pytest.approx(-1 / classes / scale)


@pytest.mark.parametrize(
    ("dataset", "images_per_class", "flip"),
    [
        ("cifar10", 50, True),
        ("cifar100", 1, True),
        ("cifar100", 10, False),
        ("tiny-imagenet", 1, True),
        ("tiny-imagenet", 10, False),
        ("mnist", 1, False),
        ("fashion-mnist", 10, False),
    ],
)
def test_flip_is_that_of_the_released_code(
    dataset: str, images_per_class: int, flip: bool
) -> None:
    task = Task(dataset, (3, 32, 32), 10, images_per_class)
    assert FRePo(augmented_copies=0).for_task(task).flip is flip
    assert FRePo(flip=not flip).for_task(task).flip is not flip


@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist", "cifar10", "a folder"])
def test_short_runs_take_cross_entropy(dataset: str) -> None:
    task = Task(dataset, (1, 28, 28), 10, 1)
    assert FRePo().for_task(task).loss == "cross-entropy"
    assert FRePo(loss="squared-error").for_task(task).loss == "squared-error"


@pytest.mark.parametrize(
    ("channels", "classes", "images_per_class", "copies"),
    [
        (1, 10, 1, 7),
        (1, 10, 5, 7),
        (1, 10, 20, 3),
        (1, 10, 21, 1),
        (1, 10, 50, 1),
        (1, 10, 51, 0),
        (3, 10, 1, 7),
        (3, 100, 2, 3),
        (3, 100, 5, 1),
        (3, 100, 6, 0),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_short_runs_for_few_images_take_augmented_copies(
    channels: int, classes: int, images_per_class: int, copies: int, known: bool
) -> None:
    name = {1: "mnist", 3: f"cifar{classes}"}[channels] if known else "a folder"
    shape = (channels, 32, 32)
    task = Task(name, shape, classes, images_per_class, mirror=channels == 3)
    short = FRePo().for_task(task)
    assert short.augmented_copies == copies
    assert short.augment is (copies > 0 or channels == 3)
    assert short.ridge == pytest.approx(1e-2 if copies else 1e-6)
    assert not (short.flip and copies)
    for without in (FRePo(augmented_copies=0), FRePo(augment=False)):
        settled = without.for_task(task)
        assert settled.augmented_copies == 0
        assert settled.ridge == pytest.approx(1e-6)
        assert settled.augment is (channels == 3 and without.augment is None)


def test_learning_rate_of_long_runs_is_the_paper_s() -> None:
    task = Task("cifar10", (3, 32, 32), 10, 10, steps=500_000)
    assert FRePo().for_task(task).learning_rate == 3e-4
    short = FRePo().for_task(replace(task, steps=500)).learning_rate
    assert short is not None
    assert short > 1e-3
    assert FRePo(learning_rate=0.5).for_task(task).learning_rate == 0.5


def test_schedule_is_a_cosine_to_a_tenth() -> None:
    distiller = FRePo(learning_rate=1.0)
    optimizer = distiller.optimizer([torch.ones(1, requires_grad=True)])
    schedule = distiller.schedule(optimizer, 100)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(100):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == 1.0
    assert rates[50] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)


def test_augmented_images_are_seen_by_regression_and_training_alone() -> None:
    plain, augmented = FRePo(pool_size=1), FRePo(pool_size=1, augment=True)
    gradients, weights = [], []
    for distiller in (plain, augmented, augmented):
        state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
        before = leaves.pixels.detach().clone()
        distiller.accumulate(state, leaves, sampler(), 0)
        distiller.advance(state, leaves, 0)
        assert torch.equal(leaves.pixels, before)
        gradients.append(leaves.pixels.grad)
        weights.append(state.pool[0].network.state_dict()["head.weight"])
        predict = distiller.predictor(state, leaves)
        images = random_images(5, 3)
        assert torch.equal(predict(images), predict(images))
    for one, other, again in (gradients, weights):
        assert one is not None
        assert other is not None
        assert not torch.allclose(one, other)
        assert torch.equal(other, again)


def test_augmented_gradient_is_that_of_the_augmented_images() -> None:
    distiller = FRePo(pool_size=1, augment=True, flip=False)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    distiller.accumulate(state, leaves, sampler(), 4)

    generator = state.run.own_generator("augmentation", 4)
    pixels = leaves.pixels.detach().clone().requires_grad_()
    view = random_augmentation(pixels, generator=generator, mirror=False)
    seen = replace(
        leaves, pixels=view.detach().requires_grad_(), labels=leaves.labels.detach()
    )
    plain = FRePo(pool_size=1, augment=False, flip=False, learn_labels=False)
    plain.accumulate(plain.setup(run_of(), sampler()), seen, sampler(), 4)
    torch.autograd.backward(view, seen.pixels.grad)
    torch.testing.assert_close(leaves.pixels.grad, pixels.grad)


@pytest.mark.parametrize(
    ("dataset", "shape", "classes", "each", "size"),
    [
        ("cifar100", (3, 32, 32), 100, 5, 256),
        ("cifar100", (3, 32, 32), 100, 6, 1024),
        ("mnist", (1, 28, 28), 10, 50, 256),
        ("mnist", (1, 28, 28), 10, 51, 1024),
        ("pets", (3, 64, 64), 20, 50, 1024),
    ],
)
def test_short_runs_for_many_images_take_the_paper_s_real_batch(
    dataset: str, shape: tuple[int, int, int], classes: int, each: int, size: int
) -> None:
    task = Task(dataset, shape, classes, each)
    assert FRePo().for_task(task).real_batch_size == size
    assert FRePo(real_batch_size=7).for_task(task).real_batch_size == 7


@pytest.mark.parametrize("flip", [False, True])
def test_augmented_copies_stand_beside_the_images_in_the_regression(flip: bool) -> None:
    distiller = FRePo(pool_size=1, augmented_copies=2, flip=flip)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    metrics = distiller.accumulate(state, leaves, sampler(), 4)

    generator = state.run.own_generator("augmentation", 4)
    pixels, labels = (
        leaf.detach().clone().requires_grad_()
        for leaf in (leaves.pixels, leaves.labels)
    )
    support = [pixels]
    for _ in range(2):
        view = random_augmentation(pixels, generator=generator, mirror=False)
        support.append(view)
    stacked, repeated = torch.cat(support), torch.cat([labels, labels, labels])
    seen = Leaves(
        stacked.detach().requires_grad_(),
        repeated.detach().requires_grad_(),
        repeated.argmax(dim=1),
    )
    plain = FRePo(pool_size=1, augment=False, flip=flip, ridge=1e-2)
    expected = plain.accumulate(plain.setup(run_of(), sampler()), seen, sampler(), 4)
    assert metrics["loss"] == expected["loss"]
    torch.autograd.backward(stacked, seen.pixels.grad)
    torch.testing.assert_close(leaves.pixels.grad, pixels.grad)
    # The margin is larger than the least, so the margin loss has no gradient.
    assert seen.labels.grad is not None
    summed = seen.labels.grad.unflatten(0, (3, 6)).sum(dim=0)
    torch.testing.assert_close(leaves.labels.grad, summed)


def test_models_are_trained_under_augmentation_if_there_are_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = []
    monkeypatch.setattr(
        workspaces.Workspace, "train", lambda self, view, labels: trained.append(view)
    )
    distiller = FRePo(pool_size=1, augmented_copies=2)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    distiller.advance(state, leaves, 3)

    generator = state.run.own_generator("online augmentation", 3)
    expected = random_augmentation(leaves.pixels, generator=generator, mirror=False)
    torch.testing.assert_close(trained, [expected])


def test_each_process_draws_augmented_copies_of_its_own() -> None:
    distiller = FRePo(pool_size=2, augmented_copies=1)
    leaves = leaves_of(distiller)
    one, other = (
        support(distiller._settings, shared_run(rank, 2), leaves.pixels, 0)
        for rank in range(2)
    )
    assert torch.equal(one[:6], other[:6])
    assert not torch.allclose(one[6:], other[6:])


def test_predictions_have_the_ridge_of_augmented_copies() -> None:
    copied, ridged, plain = (
        FRePo(pool_size=1, augmented_copies=1),
        FRePo(pool_size=1, augment=True, ridge=1e-2),
        FRePo(pool_size=1, augment=True),
    )
    one, other, another = (
        each.predictor(each.setup(run_of(), sampler()), leaves_of(each))(
            random_images(5, 3)
        )
        for each in (copied, ridged, plain)
    )
    assert torch.equal(one, other)
    assert not torch.allclose(one, another)


def test_augmented_copies_settle_augmentation_and_ridge() -> None:
    task = Task("toy", (1, 8, 8), 3, 2)
    for preset in ("fast", "paper"):
        copied = FRePo(preset=preset, augmented_copies=2).for_task(task)
        assert (copied.augment, copied.ridge) == (True, 1e-2)
        assert FRePo(preset=preset, ridge=0.5, augmented_copies=2).for_task(
            task
        ).ridge == pytest.approx(0.5)
        plain = FRePo(preset=preset, augment=False).for_task(task)
        assert (plain.augmented_copies, plain.ridge) == (0, 1e-6)
    contradiction = FRePo(augment=False, augmented_copies=2)
    with pytest.raises(OptionError, match="leave out augment=False"):
        contradiction.setup(run_of(), sampler())


@pytest.mark.parametrize("pool_networks", [(), (MLP(width=4),)])
@pytest.mark.parametrize("updates_per_batch", [1, 3])
def test_models_that_take_turns_at_a_bench_give_the_same_bits(
    pool_networks: tuple[MLP, ...],
    updates_per_batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distiller = FRePo(
        pool_size=4,
        max_online_updates=6,
        online_steps=2,
        augmented_copies=2,
        flip=True,
        pool_networks=pool_networks,
        updates_per_batch=updates_per_batch,
    )
    runs = []
    for shared in (False, True):
        monkeypatch.setattr(
            workspaces, "shares_workspaces", lambda run, shared=shared: shared
        )
        state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
        for step in range(40):
            distiller.accumulate(state, leaves, sampler(), step)
            distiller.advance(state, leaves, step)
        assert len(state.workspaces) == (1 + len(pool_networks) if shared else 4)
        runs.append((leaves, state.state_dict()))

    (one, one_state), (two, two_state) = runs
    assert torch.equal(one.pixels.grad, two.pixels.grad)
    assert torch.equal(one.labels.grad, two.labels.grad)
    torch.testing.assert_close(one_state, two_state, rtol=0, atol=0)


def test_equal_images_are_regressed_with_a_larger_ridge() -> None:
    distiller = FRePo(ridge=1e-18, flip=False)
    state, leaves = distiller.setup(run_of(), sampler()), leaves_of(distiller)
    pixels = leaves.pixels.detach()[:1].repeat(6, 1, 1, 1).requires_grad_()

    metrics = distiller.accumulate(state, replace(leaves, pixels=pixels), sampler(), 0)

    assert torch.isfinite(metrics["loss"])
    assert pixels.grad is not None
    assert torch.isfinite(pixels.grad).all()


@pytest.mark.parametrize("kernel", [None, TangentKernel()])
def test_passes_without_a_graph_are_in_chunks_on_a_gpu(
    kernel: TangentKernel | None,
) -> None:
    meta = torch.device("meta")  # as a GPU: its images are one chunk
    network = MLP(width=4).build((1, 8, 8), 3, generator=torch.Generator(), device=meta)
    sizes: list[int] = []
    network.layout.register_forward_hook(
        lambda layer, given, out: sizes.append(len(out))
    )
    regression = Regression(
        1e-6, "squared-error", False, False, chunk_size=4, kernel=kernel
    )
    drawn = regression.draw(run_of(), network, torch.Generator()).to(meta)
    images = torch.empty(10, 1, 8, 8, device=meta)
    blocks = regression.blocks(run_of(), network, images, drawn)
    assert sizes == [4, 4, 2]
    assert {len(block) for block in blocks} == {10}
    del sizes[:]
    regression.blocks(run_of(), network, images, drawn, differentiable=True)
    assert sizes == [10]
