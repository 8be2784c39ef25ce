"""Training by a recipe, against steps that are written out in float64."""

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from made_sets import linear_network
from torch import Tensor, nn

from dd_plugins.data.images import Images
from dd_plugins.data.preprocess import Transform
from dd_plugins.errors import PluginError
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.networks.mlp import MLP
from dd_plugins.synthetic.labels import LABEL_KINDS, LabelKind
from dd_plugins.training import train
from dd_plugins.training.outputs import (
    accuracy,
    fraction_correct,
    predicted_classes,
    real_outputs,
)
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.train import (
    RealLabels,
    TrainingSet,
    Whitened,
    seconds_of_training,
    train_network,
    training_steps_of,
)

CPU = torch.device("cpu")


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=drawn(seed))


def squared(logits: Tensor, labels: Tensor) -> Tensor:
    return ((logits - labels) ** 2).sum() / (2 * len(logits))


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    logarithms = logits - logits.exp().sum(dim=1, keepdim=True).log()
    return -(labels * logarithms).sum() / len(logits)


def of_largest(logits: Tensor, labels: Tensor) -> Tensor:
    return entropy(logits, (labels == labels.amax(dim=1, keepdim=True)).double())


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    ("kind", "loss"),
    [("regression", squared), ("probabilities", entropy), ("classes", of_largest)],
)
def test_steps_equal_those_written_out_in_float64(
    kind: Any, loss: Callable[[Tensor, Tensor], Tensor], temperature: float
) -> None:
    images, start = random(6, 2, 2, 3), random(3, 12, seed=1)
    labels = random(6, 3, seed=2).softmax(dim=1)
    recipe = Recipe(
        steps=5,
        learning_rate=0.2,
        warm_up=2,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.1,
        augmentation="none",
        temperature=temperature,
    )
    network = linear_network(start)
    training_set = TrainingSet(images, labels, kind, mirror=False)
    train_network(network, training_set, recipe, generator=drawn(0))

    weight, flat = start.double(), images.flatten(1).double()
    for rate in (0.0, 0.1, *(0.2 * _cosine(done / 3) for done in range(3))):
        weight = weight.detach().requires_grad_()
        logits = flat @ weight.mT / temperature
        (gradient,) = torch.autograd.grad(
            temperature**2 * loss(logits, labels.double()), weight
        )
        weight = weight - rate * (gradient + 0.1 * weight)
    torch.testing.assert_close(network.head.weight, weight.float(), rtol=0, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("mix", ["none", "cutmix"])
@pytest.mark.parametrize("kind", ["classes", "regression"])
def test_labels_made_on_access_train_the_same_network(
    kind: LabelKind, mix: Literal["none", "cutmix"]
) -> None:
    images, classes = random(9, 1, 4, 4), torch.arange(9) % 3
    recipe = Recipe(steps=4, batch_size=4, mix=mix, learning_rate=0.1)
    made = RealLabels(classes, 3, kind, CPU)
    weights = []
    for labels in (made, LABEL_KINDS[kind].targets(classes, 3)):
        network = linear_network(random(3, 16, seed=1))
        training_set = TrainingSet(images, labels, kind, mirror=False)
        train_network(network, training_set, recipe, generator=drawn(0))
        weights.append(network.head.weight)
    assert torch.equal(*weights)


def _cosine(done: float) -> float:
    return 0.01 + 0.99 * math.cos(math.pi * done / 2) ** 2


def test_steps_of_a_training_are_those_of_a_shorter_one() -> None:
    """So a snapshot on the way is a network as it was then."""
    training_set = TrainingSet(random(9, 1, 4, 4), random(9, 2), "regression", True)
    recipe = Recipe(steps=4, batch_size=4, decay="none")
    whole = linear_network(random(2, 16, seed=1))
    counted = []
    for done in training_steps_of(whole, training_set, recipe, generator=drawn(5)):
        counted.append(done)
        assert whole.training
        shorter = linear_network(random(2, 16, seed=1))
        short = Recipe(steps=done, batch_size=4, decay="none")
        train_network(shorter, training_set, short, generator=drawn(5))
        assert not shorter.training
        assert torch.equal(shorter.head.weight, whole.head.weight)
    assert counted == [1, 2, 3, 4]


class Drawn:
    """Images that are made when they are drawn, and remember which were."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.asked: list[Any] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        self.asked.append(chosen)
        return self.images[chosen]


def batches_of(count: int, size: int, steps: int) -> list[Any]:
    images = Drawn(random(count, 1, 4, 4))
    training_set = TrainingSet(images, random(count, 2), "regression", mirror=False)
    recipe = Recipe(steps=steps, batch_size=size)
    network = linear_network(random(2, 16, seed=1))
    train_network(network, training_set, recipe, generator=drawn(0))
    return images.asked


def test_an_epoch_draws_no_image_twice_and_its_rest_is_left() -> None:
    asked = [chosen.tolist() for chosen in batches_of(count=11, size=4, steps=40)]
    epochs = [one + other for one, other in zip(asked[::2], asked[1::2], strict=True)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20, "shuffled anew"
    assert {place for epoch in epochs for place in epoch} == set(range(11))


@pytest.mark.parametrize("size", [11, 12, 500])
def test_a_batch_of_more_than_all_is_all_in_order(size: int) -> None:
    assert batches_of(count=11, size=size, steps=2) == [slice(None)] * 2


class Views:
    """Labels of views that remember which were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int]] = []

    def of(self, images: Tensor, indices: Tensor, number: int) -> tuple[Tensor, Tensor]:
        self.asked.append((indices.tolist(), number))
        assert len(images) == 10, "a view may show any image of the set"
        count = len(indices)
        return images.new_zeros(count, 1, 4, 4), torch.full((count, 2), 9.0)


@pytest.mark.parametrize(
    ("size", "numbers"), [(5, [0, 0, 1, 1, 2, 2]), (10, list(range(6)))]
)
def test_each_epoch_trains_on_one_view_in_place_of_augmented_images(
    size: int, numbers: list[int]
) -> None:
    images, views = random(10, 1, 4, 4), Views()
    training_set = TrainingSet(
        images,
        random(10, 2),
        "regression",
        mirror=True,
        views=views,  # type: ignore[arg-type]
    )
    recipe = Recipe(6, batch_size=size, optimizer="sgd", weight_decay=0.0)
    start = random(2, 16, seed=1)
    network = linear_network(start)
    train_network(network, training_set, recipe, generator=drawn(0))
    assert [number for _, number in views.asked] == numbers
    for place in range(0, 6, 10 // size):
        epoch = views.asked[place : place + 10 // size]
        seen = [index for indices, _ in epoch for index in indices]
        assert sorted(seen) == list(range(10))
    assert torch.equal(network.head.weight, start), "black views teach nothing"


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_class_scores_are_mixed_as_their_classes(mix: Any) -> None:
    """Mixed scores would have one largest, and forget the other image."""
    scores = 5 * random(8, 3, seed=2)
    one_hot = (scores == scores.amax(dim=1, keepdim=True)).float()
    recipe = Recipe(steps=3, mix=mix, augmentation="none")
    weights = []
    for kind, labels in (("classes", scores), ("probabilities", one_hot)):
        training_set = TrainingSet(random(8, 1, 4, 4), labels, kind, False)  # type: ignore[arg-type]
        network = linear_network(random(3, 16, seed=1))
        train_network(network, training_set, recipe, generator=drawn(0))
        weights.append(network.head.weight)
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], random(3, 16, seed=1))


def test_a_head_of_other_classes_is_told_with_both_shapes() -> None:
    network = linear_network(random(4, 16))
    network.origin = "four_headed"
    training_set = TrainingSet(random(5, 1, 4, 4), random(5, 3), "regression", False)
    with pytest.raises(PluginError, match=r"four_headed.*\(5, 3\).*\(5, 4\)"):
        train_network(network, training_set, Recipe(1), generator=drawn(0))


def byte_images(count: int) -> Images:
    images = torch.randint(256, (count, 2, 4, 4), generator=drawn(3))
    return Images(images.to(torch.uint8), torch.arange(count) % 3)


@pytest.mark.parametrize("size", [None, 1, 4, 100])
def test_outputs_do_not_depend_on_how_many_images_are_given_at_a_time(
    size: int | None,
) -> None:
    data, weight = byte_images(10), random(3, 32)
    transform = Transform(torch.tensor([0.5, 0.4]), torch.tensor([0.2, 0.3]))
    found = real_outputs(
        linear_network(weight).eval(), data, transform, device=CPU, batch_size=size
    )
    mean, deviation = (
        torch.tensor(each, dtype=torch.float64).view(2, 1, 1)
        for each in ([0.5, 0.4], [0.2, 0.3])
    )
    pixels = (data.images[:].double() / 255 - mean) / deviation
    expected = pixels.flatten(1) @ weight.double().mT
    torch.testing.assert_close(found, expected.float())
    assert not found.requires_grad


def test_outputs_in_low_precision_are_float32_again() -> None:
    seen: list[torch.dtype] = []

    class Watched(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            outputs = super().forward(images)
            seen.append(outputs.dtype)
            return outputs

    network = FeatureNetwork(nn.Flatten(), Watched(32, 3))
    options: dict[str, Any] = {"device": CPU, "precision": torch.bfloat16}
    transform = Transform.identity(2)
    found = real_outputs(network, byte_images(4), transform, **options)
    training_set = TrainingSet(random(4, 2, 4, 4), random(4, 3), "regression", False)
    options = {"generator": drawn(0), "precision": torch.bfloat16}
    train_network(network, training_set, Recipe(1), **options)
    assert (found.dtype, seen) == (torch.float32, [torch.bfloat16] * 2)
    assert network.head.weight.dtype == torch.float32, "weights stay"


def test_accuracy_counts_the_images_whose_class_has_the_greatest_logit() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0], [-1.0, -2.0], [0.0, 1.0]])
    classes = predicted_classes(logits)
    assert classes.tolist() == [1, 0, 0, 1]
    assert fraction_correct(classes, torch.tensor([1, 0, 1, 0])) == 0.5
    data = Images(torch.rand(4, 1, 1, 2), torch.tensor([1, 0, 0, 0]))
    rows = iter(logits.split(3))
    found = accuracy(
        lambda images: next(rows)[: len(images)],
        data,
        Transform.identity(1),
        device=CPU,
        batch_size=3,
    )
    assert found == 0.75


def test_real_images_are_mapped_when_they_are_drawn() -> None:
    data = byte_images(7)
    transform = Transform.fit(data.images, "zca")
    whitened = Whitened(data.images, transform, CPU)
    assert len(whitened) == 7
    whole = transform(data.images)  # type: ignore[arg-type]
    for chosen in (slice(2, 5), torch.tensor([6, 0, 0])):
        torch.testing.assert_close(whitened[chosen], whole[chosen])


def trained(recipe: Recipe, network: FeatureNetwork | None = None) -> FeatureNetwork:
    labels = random(6, 3, seed=2).softmax(dim=1)
    training_set = TrainingSet(random(6, 1, 4, 4), labels, "probabilities", False)
    network = network or linear_network(random(3, 16, seed=1))
    return train_network(network, training_set, recipe, generator=drawn(0))


@pytest.mark.parametrize(
    ("steps", "ends", "seconds"),
    [
        # The first step is slow, and every other one waits for another process.
        (100, [0, 9, 9.1, 9.4, 9.5, 9.8], 20.0),
        (2, [0, 9, 9.1], 0.2),  # a training of fewer steps than are timed
        (1, [0, 9], 9.0),
    ],
)
def test_the_time_of_a_training_is_that_of_its_mean_step(
    steps: int, ends: list[float], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_TIMED_STEPS", 5)
    monkeypatch.setattr(train.time, "perf_counter", iter(ends).__next__)
    labels = RealLabels(torch.arange(4), 4, "classes", CPU)
    training_set = TrainingSet(random(4, 1, 2, 2), labels, "classes", mirror=False)
    network = MLP(width=2).build((1, 2, 2), 4, generator=drawn(0))
    recipe = Recipe(steps=steps, augmentation="none")
    found = seconds_of_training(network, training_set, recipe)
    assert found == pytest.approx(seconds)


def test_training_may_stop_before_its_schedule_ends() -> None:
    whole = Recipe(steps=9, augmentation="none", decay="none")
    nine = trained(whole).head.weight
    three = trained(Recipe(steps=3, augmentation="none", decay="none")).head.weight
    stopped = Recipe(steps=9, augmentation="none", decay="none", stop_after=3)
    assert torch.equal(trained(stopped).head.weight, three)
    assert not torch.equal(nine, three)


def test_the_square_of_the_temperature_may_be_left_out() -> None:
    """With SGD it is a factor of the learning rate."""
    usual = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    usual |= {"augmentation": "none", "temperature": 3.0, "steps": 4}
    scaled = trained(Recipe(learning_rate=0.01, **usual)).head.weight  # type: ignore[arg-type]
    plain = trained(Recipe(learning_rate=0.09, scale_loss=False, **usual)).head.weight  # type: ignore[arg-type]
    torch.testing.assert_close(scaled, plain)


def test_the_mean_of_the_weights_is_returned_if_it_is_asked_for() -> None:
    recipe = Recipe(steps=5, augmentation="none", learning_rate=0.1)
    network = linear_network(random(3, 16, seed=1))
    labels = random(6, 3, seed=2).softmax(dim=1)
    training_set = TrainingSet(random(6, 1, 4, 4), labels, "probabilities", False)
    steps = training_steps_of(network, training_set, recipe, generator=drawn(0))
    mean = None
    for _ in steps:
        now = network.head.weight.detach()
        mean = now.clone() if mean is None else 0.75 * mean + 0.25 * now
    averaged = Recipe(steps=5, augmentation="none", learning_rate=0.1, average=0.75)
    found = trained(averaged)
    torch.testing.assert_close(found.head.weight.detach(), mean)
    assert not found.training


@pytest.mark.parametrize("momentum", [0.25, None])
def test_running_statistics_have_the_momentum_of_the_recipe(
    momentum: float | None,
) -> None:
    body = nn.Sequential(nn.BatchNorm2d(1, momentum=0.9), nn.Flatten())
    network = FeatureNetwork(body, nn.Linear(16, 3))
    recipe = Recipe(steps=1, augmentation="none", norm_momentum=momentum)
    trained(recipe, network)
    share = momentum or 0.9
    expected = share * random(6, 1, 4, 4).mean()
    torch.testing.assert_close(body[0].running_mean, expected.view(1))


def test_crops_are_an_augmentation() -> None:
    images = random(6, 1, 16, 16)
    recipe = Recipe(steps=1, augmentation="crop")
    moved = recipe.augment(images, drawn(0), True)
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)


def test_regression_targets_may_be_trained_on_by_cross_entropy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, str]] = []

    def loss(logits: Tensor, labels: Tensor, kind: str, recipe: Recipe) -> Tensor:
        seen.append((labels, kind))
        return logits.square().mean()

    monkeypatch.setattr(train, "_loss", loss)
    targets = torch.eye(3).repeat(2, 1) - 1 / 3
    for options, kind in (
        ({}, "regression"),
        ({"loss": "cross-entropy"}, "probabilities"),
    ):
        module = MLP(width=4).build((1, 8, 8), 3, generator=drawn(0))
        train_network(
            module,
            TrainingSet(torch.randn(6, 1, 8, 8), targets, "regression", False),
            Recipe(steps=1, augmentation="none", **options),
            generator=drawn(0),
        )
        labels, found = seen.pop()
        assert found == kind
        if options:
            torch.testing.assert_close(labels.sum(dim=1), torch.ones(6))
            torch.testing.assert_close(labels.amax(dim=1), torch.full((6,), 0.9))
            assert torch.equal(labels.argmax(dim=1), targets.argmax(dim=1))
        else:
            assert torch.equal(labels, targets)
