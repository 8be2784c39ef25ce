"""Learned labels in a strategy."""

import pytest
import torch
from torch import nn

from dd_plugins.errors import OptionError
from dd_plugins.functional.kernel_regression import centred_targets

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from learners import FREPO, benchmark, buffer, network, plugins_for, strategy

from dd_avalanche import (
    DistilledBuffer,
    DistilledReplayPlugin,
    LabelLoss,
    SoftTargets,
)

pytestmark = [
    # Of Avalanche 0.6 and what it imports; none of them is ours.
    pytest.mark.filterwarnings("ignore"),
]


def test_learned_labels_with_a_criterion_that_misreads_them_are_refused() -> None:
    held = buffer("learned")
    learner = strategy(network(), plugins_for("replay", held))
    with pytest.raises(OptionError, match=r"criterion=dd_avalanche.LabelLoss"):
        learner.train(benchmark("class-incremental").train_stream[0])
    with pytest.raises(OptionError, match="for a buffer of learned labels"):
        SoftTargets(buffer())
    with pytest.raises(OptionError, match="need num_classes"):
        DistilledBuffer(20, FREPO, labels="learned")
    with pytest.raises(OptionError, match="labels must be one of hard, learned"):
        buffer("soft")
    with pytest.raises(OptionError, match="weight must be positive"):
        DistilledReplayPlugin(buffer(), weight=0)
    with pytest.raises(OptionError, match="batch_size must be"):
        DistilledReplayPlugin(buffer(), batch_size=0)


def test_label_loss_takes_vectors_and_classes_alike() -> None:
    output, classes = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    squared = LabelLoss("regression")
    assert torch.equal(
        squared(output, classes), squared(output, centred_targets(classes, 4))
    )
    entropy = LabelLoss("probabilities")(output, classes)
    torch.testing.assert_close(entropy, nn.functional.cross_entropy(output, classes))
