"""Learned labels in a strategy."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dd_plugins.errors import OptionError
from dd_plugins.functional.kernel_regression import centred_targets

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from avalanche.training.plugins import ReplayPlugin
from learners import FREPO, OPTIONS, benchmark, buffer, network, plugins_for, strategy

from dd_avalanche import (
    DistilledBuffer,
    LabelLoss,
    SoftTargets,
)
from dd_avalanche.replay.targets import as_targets, check_criterion

pytestmark = [
    # Of Avalanche 0.6 and what it imports; none of them is ours.
    pytest.mark.filterwarnings("ignore"),
]


def test_learned_labels_with_a_criterion_that_misreads_them_are_refused() -> None:
    held = buffer("learned")
    learner = strategy(network(), plugins_for("replay", held))
    with pytest.raises(OptionError, match=r"criterion=dd_avalanche.LabelLoss"):
        learner.train(benchmark("class-incremental").train_stream[0])
    with pytest.raises(OptionError, match="buffer of learned labels, got 'hard'"):
        SoftTargets(buffer())
    with pytest.raises(OptionError, match="need num_classes"):
        DistilledBuffer(20, FREPO, labels="learned")
    with pytest.raises(OptionError, match="learned labels need num_classes"):
        SoftTargets(DistilledBuffer(20, FREPO))
    with pytest.raises(OptionError, match="labels must be one of hard, learned"):
        buffer("soft")


def test_learned_labels_without_soft_targets_are_refused() -> None:
    held = buffer("learned")
    stock = ReplayPlugin(20, storage_policy=held)
    learner = strategy(network(), [stock], criterion=LabelLoss("regression"))
    with pytest.raises(OptionError, match=r"the plugin SoftTargets\(buffer\)") as error:
        learner.train(benchmark("class-incremental").train_stream[0])
    assert "\n" not in str(error.value)
    assert len(held.memory) == 0, "refused before anything is distilled"


def test_soft_targets_give_a_buffer_its_learned_labels() -> None:
    held = DistilledBuffer(20, FREPO, **OPTIONS)
    held.post_adapt(None, benchmark("class-incremental").train_stream[0])
    assert isinstance(held.buffer[0][1], int)
    SoftTargets(held)
    assert held.labels == "learned"
    assert held.buffer[0][1].shape == (10,)
    assert torch.equal(held.buffer[3][1], held.memory.labels(10)[3])


def test_label_loss_takes_vectors_and_classes_alike() -> None:
    output, classes = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    squared = LabelLoss("regression")
    assert torch.equal(
        squared(output, classes), squared(output, centred_targets(classes, 4))
    )
    column = classes[:, None].int()
    assert torch.equal(squared(output, column), squared(output, classes))
    entropy = LabelLoss("probabilities")(output, classes)
    torch.testing.assert_close(entropy, nn.functional.cross_entropy(output, classes))


@pytest.mark.parametrize(
    ("kind", "on", "off"), [("regression", 0.75, -0.25), ("probabilities", 1, 0)]
)
def test_classes_become_labels_of_a_kind(kind: Any, on: float, off: float) -> None:
    targets = as_targets(torch.tensor([2, 0]), 4, kind)
    assert targets.dtype == torch.float32
    assert targets.tolist() == [[off, off, on, off], [on, off, off, off]]


def test_labels_lose_the_classes_that_a_small_head_has_not() -> None:
    output = torch.randn(5, 3)
    wide = as_targets(torch.tensor([0, 1, 2, 1, 0]), 10, "regression")
    loss = LabelLoss("regression")
    narrow = as_targets(torch.tensor([0, 1, 2, 1, 0]), 3, "regression")
    torch.testing.assert_close(loss(output, wide), loss(output, narrow))


def test_labels_of_current_data_are_vectors_beside_learned_ones() -> None:
    held = buffer("learned")
    experience = benchmark("class-incremental").train_stream[0]
    held.post_adapt(None, experience)
    learner = SimpleNamespace(adapted_dataset=experience.dataset)
    SoftTargets(held).after_train_dataset_adaptation(learner)
    adapted = learner.adapted_dataset
    assert type(adapted) is type(experience.dataset)
    for index in (0, len(adapted) - 1):
        vector, label = adapted[index][1], experience.dataset[index][1]
        assert torch.equal(
            vector, as_targets(torch.tensor([label]), 10, "regression")[0]
        )
    twice = SimpleNamespace(adapted_dataset=adapted)
    SoftTargets(held).after_train_dataset_adaptation(twice)
    assert torch.equal(twice.adapted_dataset[0][1], adapted[0][1]), "vectors stay"


def test_soft_targets_of_too_few_classes_are_refused() -> None:
    held = DistilledBuffer(20, FREPO, **(OPTIONS | {"num_classes": 1}))
    learner = strategy(
        network(),
        [ReplayPlugin(20, storage_policy=held), SoftTargets(held)],
        criterion=LabelLoss("regression"),
    )
    with pytest.raises(OptionError, match=r"num_classes must be from \d+, .* got 1;"):
        learner.train(benchmark("class-incremental").train_stream[0])


@pytest.mark.parametrize(
    ("labels", "criterion"),
    [("hard", nn.CrossEntropyLoss()), ("learned", LabelLoss("regression"))],
)
def test_criterion_that_fits_is_taken(labels: str, criterion: nn.Module) -> None:
    check_criterion(SimpleNamespace(_criterion=criterion), buffer(labels))
