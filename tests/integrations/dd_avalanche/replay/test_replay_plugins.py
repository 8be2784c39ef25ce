"""Replay in a batch of its own, and training from scratch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dd_plugins.errors import OptionError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from avalanche.benchmarks.scenarios import split_online_stream
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import ReplayPlugin
from learners import benchmark, buffer, network, plugins_for, strategy

from dd_avalanche import (
    DistilledGDumb,
    DistilledReplayPlugin,
)

pytestmark = [
    # Of Avalanche 0.6 and what it imports; none of them is ours.
    pytest.mark.filterwarnings("ignore"),
]


def test_training_from_scratch_refuses_a_criterion_that_misreads() -> None:
    learner = strategy(network(), plugins_for("from scratch", buffer("learned")))
    with pytest.raises(OptionError, match=r"criterion=dd_avalanche.LabelLoss"):
        learner.train(benchmark("class-incremental").train_stream[0])


def test_own_batch_adds_the_loss_of_its_labels() -> None:
    held = buffer("learned")
    held.post_adapt(None, benchmark("class-incremental").train_stream[0])
    model = network().eval()
    plugin = DistilledReplayPlugin(held, weight=0.5, batch_size=100, augment=False)

    class Fake:
        train_mb_size, device, loss = 8, torch.device("cpu"), torch.tensor(1.0)

    fake = Fake()
    fake.model = model  # type: ignore[attr-defined]
    plugin.before_backward(fake)
    memory = held.memory
    with torch.no_grad():
        error = model(memory.images()) - memory.labels(10)
        by_hand = 1 + 0.5 * error.square().sum(dim=1).mean() / 2
    torch.testing.assert_close(fake.loss.detach(), by_hand)


def test_own_batch_is_augmented_anew_each_time() -> None:
    held = buffer()
    held.post_adapt(None, benchmark("class-incremental").train_stream[0])
    plain = DistilledReplayPlugin(held, augment=False)
    assert len({round(replayed(plain, size=100), 5) for _ in range(4)}) == 1
    augmented = DistilledReplayPlugin(held)
    assert len({round(replayed(augmented, size=100), 5) for _ in range(4)}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0}, "weight must be positive and finite, got 0"),
        ({"weight": float("inf")}, "weight must be positive and finite, got inf"),
        ({"weight": float("nan")}, "weight must be positive and finite, got nan"),
        ({"weight": "1"}, "weight must be a number, got '1'"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number from 1, got 1.5"),
        ({"batch_size": "8"}, "batch_size must be a whole number from 1, got '8'"),
        ({"batch_size": True}, "batch_size must be a whole number from 1, got True"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
    ],
)
def test_option_out_of_its_range_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        DistilledReplayPlugin(buffer(), **options)


def test_training_from_scratch_resets_everything() -> None:
    stream = benchmark("class-incremental")
    held = buffer()
    model = network("with buffers")
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    learner = strategy(model, [DistilledGDumb(held)])
    seen: list[bool] = []
    trained_on: list[int] = []

    class Look(ReplayPlugin):  # type: ignore[misc]
        def __init__(self) -> None: ...

        def before_training_exp(self, strategy: Any, **kwargs: Any) -> None: ...

        def after_training_exp(self, strategy: Any, **kwargs: Any) -> None: ...

        def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            state = strategy.model.state_dict()
            same = all(torch.equal(state[name], initial[name]) for name in initial)
            seen.append(same and not strategy.optimizer.state)
            trained_on.append(len(strategy.adapted_dataset))

    learner.plugins.append(Look())
    for experience in stream.train_stream:
        learner.train(experience)
    assert seen == [True] * 5
    assert trained_on == [20, 20, 18, 16, 20]
    assert any(
        not torch.equal(value, initial[name])
        for name, value in learner.model.state_dict().items()
    )


def test_reset_keeps_what_adaptation_has_told_the_model() -> None:
    """A head masks the outputs of classes that it has not met; that is no weight."""
    stream = benchmark("class-incremental")
    model = nn.Sequential(nn.Flatten(), IncrementalClassifier(64, 10))
    learner = strategy(model, [DistilledGDumb(buffer())])
    for experience in stream.train_stream:
        learner.train(experience)
    assert model[1].active_units.tolist() == [1] * 10


def test_training_from_scratch_on_parts_of_an_experience_is_refused() -> None:
    parts = split_online_stream(
        benchmark("class-incremental").train_stream, 25, access_task_boundaries=True
    )
    learner = strategy(network(), [DistilledGDumb(buffer())])
    with pytest.raises(OptionError, match="got a part of an online stream"):
        learner.train(next(iter(parts)))


def replayed(plugin: DistilledReplayPlugin, size: int = 8) -> float:
    """Return the loss that the plugin adds in an iteration."""
    fake = SimpleNamespace(
        train_mb_size=size,
        device=torch.device("cpu"),
        loss=torch.tensor(0.0),
        model=network().eval(),
    )
    plugin.before_backward(fake)
    return float(fake.loss)


def test_nothing_is_replayed_before_there_are_images() -> None:
    plugin = DistilledReplayPlugin(buffer())
    assert replayed(plugin) == 0
    assert plugin.state_dict() == {"draws": 0}


def test_draws_are_a_function_of_the_seed_and_go_on_where_they_were() -> None:
    held = buffer()
    held.post_adapt(None, benchmark("class-incremental").train_stream[0])
    state = torch.get_rng_state()
    first, other = DistilledReplayPlugin(held), DistilledReplayPlugin(held, seed=1)
    losses = [replayed(first, size=2) for _ in range(4)]
    assert len(set(losses)) > 1, "drawn anew in each iteration"
    assert [replayed(other, size=2) for _ in range(4)] != losses
    again = DistilledReplayPlugin(held)
    again.load_state_dict({"draws": 2})
    assert [replayed(again, size=2) for _ in range(2)] == losses[2:]
    assert first.state_dict() == {"draws": 4}
    torch.set_rng_state(state)


def test_batch_follows_the_current_data_or_the_option() -> None:
    held = buffer()
    held.post_adapt(None, benchmark("class-incremental").train_stream[0])
    every = replayed(DistilledReplayPlugin(held), size=100)
    assert replayed(DistilledReplayPlugin(held, batch_size=20), size=1) == (
        pytest.approx(every, rel=1e-5)
    )
    doubled = replayed(DistilledReplayPlugin(held, weight=2), size=100)
    assert doubled == pytest.approx(2 * every, rel=1e-5)


def test_replayed_images_are_those_that_are_stored_now() -> None:
    stream, held = benchmark("class-incremental").train_stream, buffer()
    plugin = DistilledReplayPlugin(held)
    for experience in stream[:2]:
        held.post_adapt(None, experience)
        assert torch.equal(plugin._images(), held.memory.images())
    held.resize(None, 8)
    assert torch.equal(plugin._images(), held.memory.images())


def test_replayed_images_are_those_that_were_restored(tmp_path: Path) -> None:
    """Two memories may have as many experiences and images, and other classes."""
    stream = benchmark("class-incremental").train_stream
    held, other = buffer(), buffer()
    plugin = DistilledReplayPlugin(held)
    for number in range(2):
        held.post_adapt(None, stream[number])
        other.post_adapt(None, stream[number + 2])
    other.save(tmp_path)
    assert torch.equal(plugin._images(), held.memory.images())
    held.restore(tmp_path, like=stream[0].dataset)
    assert torch.equal(plugin._images(), other.memory.images())
    assert plugin._images() is plugin._images(), "joined once"
