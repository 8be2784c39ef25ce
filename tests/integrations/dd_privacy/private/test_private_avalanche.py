"""Private training of an Avalanche strategy: loader, accounting, refusals."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from dd_plugins.errors import OptionError, RunError

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
pytest.importorskip("avalanche.training", reason="avalanche-lib is not installed")

from avalanche.benchmarks import nc_benchmark
from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import (
    EvaluationPlugin,
    LwFPlugin,
    ReplayPlugin,
    SupervisedPlugin,
)
from avalanche.training.supervised import ER_ACE, Cumulative, Naive

from dd_avalanche import DistilledBuffer, restore_stream, save_stream
from dd_privacy.avalanche import PrivateTrainingPlugin
from dd_privacy.private.accounting import noise_multiplier_for
from dd_privacy.private.dp_sgd import make_private
from dd_privacy.private.trainer import PrivateTrainer


class Images(TensorDataset):
    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__(images, labels)
        self.targets = labels.tolist()


def benchmark() -> Any:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    images = torch.rand(4, 1, 8, 8, generator=generator)[labels]
    images = images + 0.2 * torch.rand(400, 1, 8, 8, generator=generator)
    data = Images(images, labels)
    return nc_benchmark(data, data, n_experiences=2, task_labels=False, seed=0)


def strategy(plugins: list[Any], **options: Any) -> Any:
    model = options.pop("model", None) or nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    return options.pop("strategy", Naive)(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        plugins=plugins,
        **{
            "criterion": nn.CrossEntropyLoss(),
            "train_mb_size": 50,
            "train_epochs": 3,
            "evaluator": EvaluationPlugin(),
            **options,
        },
    )


@pytest.mark.filterwarnings("ignore")
def test_a_batch_larger_than_an_experience_is_refused_in_the_words_of_both() -> None:
    naive = strategy([PrivateTrainingPlugin(epsilon=20.0)], train_mb_size=500)
    with pytest.raises(OptionError, match="200 images, got a size of 500") as refused:
        naive.train(benchmark().train_stream[0])
    assert "batch_size" not in str(refused.value), "an option of PrivateTrainer alone"


@pytest.mark.filterwarnings("ignore")
def test_each_experience_is_trained_and_accounted_for() -> None:
    plugin = PrivateTrainingPlugin(epsilon=20.0, delta=1e-4, seed=0)
    naive, stream = strategy([plugin]), benchmark().train_stream
    sizes: list[int] = []

    class Watch(type(plugin)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(epsilon=1.0)

        before_training_exp = after_training_exp = lambda self, strategy: None

        def after_forward(self, strategy: Any) -> None:
            sizes.append(len(strategy.mb_y))

    naive.plugins.append(Watch())
    optimizer, before = (
        naive.optimizer,
        nn.utils.parameters_to_vector(naive.model.parameters()),
    )
    for experience in stream:
        naive.train(experience)
    assert naive.optimizer is optimizer
    assert isinstance(naive.model, nn.Sequential), "the model is unwrapped"
    after = nn.utils.parameters_to_vector(naive.model.parameters())
    assert not torch.equal(before, after)
    assert len(set(sizes)) > 5, "Poisson sampling: batches differ in size"
    assert sum(sizes) / len(sizes) == pytest.approx(50, rel=0.2)
    wanted = noise_multiplier_for(20.0, sample_rate=1 / 4, steps=12, delta=1e-4)
    assert plugin.budgets == {0: [wanted], 1: [wanted]}
    assert plugin.epsilon_spent == 2 * wanted.epsilon, "they may share images"
    assert plugin.delta_spent == 2 * wanted.delta
    plugin.disjoint = True
    assert plugin.epsilon_spent == wanted.epsilon, "disjoint experiences"
    assert plugin.delta_spent == wanted.delta
    naive.train(stream[1])
    assert plugin.epsilon_spent == 2 * wanted.epsilon, "and one of them again"


@pytest.mark.filterwarnings("ignore")
def test_noise_and_batches_of_two_trainings_are_not_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[int, int]] = []

    def watched(*args: Any, generator: Any, **kwargs: Any) -> Any:
        drawn.append(
            tuple(generator(what).initial_seed() for what in ("noise", "batches"))
        )
        return make_private(*args, generator=generator, **kwargs)

    monkeypatch.setattr("dd_privacy.private.avalanche.make_private", watched)
    plugin = PrivateTrainingPlugin(epsilon=20.0, delta=1e-4, seed=0)
    naive = strategy([plugin])
    stream = benchmark().train_stream
    for experience in (stream[0], stream[1], stream[1]):
        naive.train(experience)
    assert len({seed for pair in drawn for seed in pair}) == 6, drawn
    assert any("seed" in sentence for sentence in plugin.not_covered)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plugins": [ReplayPlugin(20)]}, "got ReplayPlugin, which may"),
        ({"plugins": [LwFPlugin()]}, "got LwFPlugin, which may"),
        ({"criterion": nn.CrossEntropyLoss(reduction="sum")}, "the plain mean"),
        ({"criterion": nn.CrossEntropyLoss(torch.ones(4))}, "without weights"),
        ({"criterion": nn.CrossEntropyLoss(ignore_index=1)}, "without weights"),
        ({"strategy": Cumulative}, "train_dataset_adaptation of .* got Cumulative"),
        ({"strategy": ER_ACE}, "training_epoch of .* got ER_ACE with its own"),
        (
            {
                "model": nn.Sequential(
                    nn.Conv2d(1, 4, 3),
                    nn.BatchNorm2d(4),
                    nn.Flatten(),
                    nn.Linear(144, 4),
                )
            },
            "BatchNorm",
        ),
    ],
)
def test_what_would_void_the_guarantee_is_refused(
    options: dict[str, Any], message: str
) -> None:
    plugins = options.pop("plugins", [])
    naive = strategy([*plugins, PrivateTrainingPlugin(epsilon=4.0)], **options)
    with pytest.raises(OptionError, match=message):
        naive.train(benchmark().train_stream[0])


@pytest.mark.filterwarnings("ignore")
def test_plugins_that_carry_nothing_may_be_allowed() -> None:
    plugin = PrivateTrainingPlugin(epsilon=9.0, allowed=[LwFPlugin])
    strategy([LwFPlugin(), plugin]).train(benchmark().train_stream[0])
    assert plugin.epsilon_spent > 8


def test_loaders_that_sample_otherwise_are_refused() -> None:
    module = nn.Linear(3, 2)
    trainer = PrivateTrainer(epsilon=5.0, batch_size=10, epochs=1)
    data = TensorDataset(torch.rand(100, 3))
    about: dict[str, Any] = {"clipping_norm": 1.0, "generator": trainer.generator}
    given = (module, torch.optim.SGD(module.parameters()), nn.CrossEntropyLoss())
    weighted = DataLoader(
        data, batch_size=10, sampler=WeightedRandomSampler([1.0] * 100, 100)
    )
    with pytest.raises(OptionError, match="got a WeightedRandomSampler, whose"):
        make_private(*given, weighted, trainer.budget(100), **about)
    with pytest.raises(OptionError, match="batches, got 5"):
        make_private(
            *given, DataLoader(data, batch_size=20), trainer.budget(100), **about
        )


def stored() -> DistilledBuffer:
    return DistilledBuffer(8, "random", network="conv(width=4, depth=2)")


@pytest.mark.filterwarnings("ignore")
def test_what_was_spent_survives_every_way_of_saving(tmp_path: Path) -> None:
    stream = benchmark().train_stream

    def made(**options: Any) -> tuple[PrivateTrainingPlugin, Any]:
        plugin = PrivateTrainingPlugin(epsilon=9.0, seed=0, **options)
        return plugin, strategy([plugin])

    plugin, learner = made()
    for experience in (stream[0], stream[0]):
        learner.train(experience)
    assert plugin.epsilon_spent > 10
    held = stored()
    held.post_adapt(None, stream[0])
    save_stream(tmp_path, learner, held, 1)
    again, fresh = made()
    restore_stream(tmp_path, fresh, stored(), stream)
    assert again.budgets == plugin.budgets
    fresh.train(stream[1])
    assert again.epsilon_spent > plugin.epsilon_spent
    apart, fresh = made(disjoint=True)
    restore_stream(tmp_path, fresh, stored(), stream)
    assert apart.epsilon_spent == plugin.epsilon_spent, "one experience, twice"
    # A plugin that spent something else does not forget it.
    other, fresh = made()
    fresh.train(stream[1])
    spent = other.epsilon_spent
    with pytest.raises(OptionError, match="without a budget of experience 1"):
        restore_stream(tmp_path, fresh, stored(), stream)
    assert other.epsilon_spent == spent
    with pytest.raises(OptionError, match="with PrivateTrainingPlugin, got none"):
        restore_stream(tmp_path, strategy([]), stored(), stream)
    # Avalanche's own way, and a copy.
    save_checkpoint(learner, tmp_path / "c.pkl", exclude=["optimizer"])
    loaded, _ = maybe_load_checkpoint(made()[1], tmp_path / "c.pkl")
    assert loaded.plugins[0].budgets == plugin.budgets
    assert copy.deepcopy(plugin).epsilon_spent == plugin.epsilon_spent


class Steps(SupervisedPlugin):  # type: ignore[misc]
    """Keep the sizes of the batches that were stepped on."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        self.sizes.append(len(strategy.mb_y))


@pytest.mark.filterwarnings("ignore")
def test_metrics_rest_on_empty_batches_and_steps_are_made_all_the_same() -> None:
    steps, stream = Steps(), benchmark().train_stream
    plugin = PrivateTrainingPlugin(epsilon=9.0, seed=0, allowed=[Steps])
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, epoch_running=True),
        loss_metrics(minibatch=True, epoch=True),
        loggers=[],
    )
    learner = strategy(
        [plugin, steps], evaluator=evaluator, train_mb_size=1, train_epochs=1
    )
    learner.train(stream[0])
    assert 0 in steps.sizes
    assert len(steps.sizes) == plugin.budgets[0][0].steps == 200
    found = evaluator.get_all_metrics()
    values = [value for _, each in found.values() for value in each]
    assert len(found["Loss_MB/train_phase/train_stream/Task000"][1]) == sum(
        size > 0 for size in steps.sizes
    )
    assert all(0 <= value < 100 for value in values)
    assert evaluator.active
    (accuracy,) = found["Top1_Acc_Epoch/train_phase/train_stream/Task000"][1]
    assert 0 < accuracy <= 1


@pytest.mark.filterwarnings("ignore")
def test_as_many_steps_are_made_as_are_accounted_for() -> None:
    """One over the rate of 93 batches is a little less than 93."""
    labels = torch.arange(186) % 4
    data = Images(torch.rand(186, 1, 8, 8), labels)
    stream = nc_benchmark(data, data, 1, task_labels=False, seed=0).train_stream
    steps = Steps()
    plugin = PrivateTrainingPlugin(epsilon=9.0, seed=0, allowed=[Steps])
    learner = strategy([plugin, steps], train_mb_size=2, train_epochs=2)
    learner.train(stream[0])
    assert len(steps.sizes) == plugin.budgets[0][0].steps == 186

    class Longer(Steps):
        def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            strategy.training_epoch()

    plugin = PrivateTrainingPlugin(epsilon=9.0, seed=0, allowed=[Longer])
    longer = Longer()
    learner = strategy([plugin, longer], train_mb_size=93, train_epochs=1)
    with pytest.raises(RunError, match=r"after the 2 steps that were .*, got step 3"):
        learner.train(stream[0])
    assert len(longer.sizes) == 2


class Viewed(nn.Module):
    """A network that reshapes as many do, which no empty batch survives."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(images.view(images.size(0), -1))
        return found


@pytest.mark.filterwarnings("ignore")
def test_model_that_takes_no_empty_batch_is_refused_before_anything_is_spent() -> None:
    stream = benchmark().train_stream
    plugin = PrivateTrainingPlugin(epsilon=9.0, seed=0)
    learner = strategy([plugin], model=Viewed(), train_mb_size=2)
    with pytest.raises(OptionError, match=r"empty batch, .* chance of 0\.13.*flatten"):
        learner.train(stream[0])
    assert plugin.epsilon_spent == 0
    # No empty batch is to be reckoned with.
    learner = strategy([plugin], model=Viewed(), train_mb_size=50, train_epochs=1)
    learner.train(stream[0])
    assert plugin.epsilon_spent > 8


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("epochs", [1, 3])
def test_training_that_diverges_stops_and_tells_what_was_spent(epochs: int) -> None:
    plugin = PrivateTrainingPlugin(epsilon=9.0, seed=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 4))
    learner = strategy([plugin], model=model, train_epochs=epochs, train_mb_size=200)
    learner.optimizer.param_groups[0]["lr"] = 1e30
    with pytest.raises(RunError, match=r"diverged.*epsilon 8\.\d+ at delta .*is spent"):
        learner.train(benchmark().train_stream[0])
    assert plugin.epsilon_spent > 8, "it stays booked"
    assert learner.model is model, "the plain model is back"
    assert type(learner.optimizer) is torch.optim.SGD
