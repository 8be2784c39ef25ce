"""Private training of an Avalanche strategy: loader, accounting, refusals."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from dd_plugins.errors import OptionError

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
pytest.importorskip("avalanche.training", reason="avalanche-lib is not installed")

from avalanche.benchmarks import nc_benchmark
from avalanche.training.plugins import (
    EvaluationPlugin,
    LwFPlugin,
    ReplayPlugin,
)
from avalanche.training.supervised import ER_ACE, Cumulative, Naive

from dd_privacy.accounting import noise_multiplier_for
from dd_privacy.avalanche import PrivateTrainingPlugin
from dd_privacy.private import PrivateTrainer, make_private


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
        train_mb_size=50,
        train_epochs=3,
        plugins=plugins,
        evaluator=EvaluationPlugin(),
        **{"criterion": nn.CrossEntropyLoss(), **options},
    )


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
    plugin.disjoint = True
    assert plugin.epsilon_spent == wanted.epsilon, "disjoint experiences"
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

    monkeypatch.setattr("dd_privacy.avalanche.make_private", watched)
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
        ({"plugins": [ReplayPlugin(20)]}, "ReplayPlugin may carry"),
        ({"plugins": [LwFPlugin()]}, "LwFPlugin may carry"),
        ({"criterion": nn.CrossEntropyLoss(reduction="sum")}, "the plain mean"),
        ({"criterion": nn.CrossEntropyLoss(torch.ones(4))}, "without weights"),
        ({"criterion": nn.CrossEntropyLoss(ignore_index=1)}, "without weights"),
        ({"strategy": Cumulative}, "Cumulative has a train_dataset_adaptation of its"),
        ({"strategy": ER_ACE}, "ER_ACE has a training_epoch of its own"),
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
    with pytest.raises(OptionError, match="WeightedRandomSampler draws examples"):
        make_private(*given, weighted, trainer.budget(100), **about)
    with pytest.raises(OptionError, match="the loader has 5 batches"):
        make_private(
            *given, DataLoader(data, batch_size=20), trainer.budget(100), **about
        )
