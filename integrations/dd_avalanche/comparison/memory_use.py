"""The two uses of a memory: training from scratch on it, and replay in Avalanche."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_avalanche.comparison.memories import MemoryHistory
from dd_avalanche.comparison.streams import AbstractStream
from dd_avalanche.memory import DistilledMemory, untouched_randomness
from dd_plugins.api import (
    TrainingSet,
    centred_targets,
    frepo_recipe,
    generator_for,
    train_network,
)

__all__ = ["scores_from_scratch", "scores_with_replay"]

_REPLAY_RATE = 0.05  # the learning rate of plain SGD


def scores_from_scratch(
    stream: AbstractStream, history: MemoryHistory, store: str
) -> list[list[float]]:
    """Train a fresh network on the memory alone after each experience.

    Args:
        stream: the stream of the memory.
        history: the content of the memory after each experience.
        store: the form of its stored images.

    Returns:
        For each experience, the accuracy on it and on each one before.
    """
    scores = []
    for part in range(stream.experiment.experiences):
        network = _trained(stream, history.at(part, store), part + 1)
        scores.append(stream.score(network, part + 1))
    return scores


def _trained(stream: AbstractStream, memory: DistilledMemory, parts: int) -> Any:
    """Return a fresh network trained on a memory alone, by FRePo's protocol."""
    images, labels = memory.images(), memory.labels(stream.data.num_classes)
    if memory.label_kind != "regression":
        # All policies are compared by one loss, whatever labels they learn.
        labels = centred_targets(memory.hard_labels(), stream.data.num_classes)
    recipe = frepo_recipe(len(images))
    if stream.experiment.training_steps is not None:
        recipe = replace(recipe, steps=stream.experiment.training_steps)
    return train_network(
        stream.fresh_network("network", parts),
        TrainingSet(
            images.to(stream.device),
            labels.to(stream.device),
            "regression",
            stream.data.mirror,
        ),
        recipe,
        generator=generator_for(stream.seed, "training", parts),
        precision=stream.precision,
    )


class _ModelImages(Dataset[tuple[Tensor, int]]):
    """Images in the space of the model, for Avalanche."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.targets = images, labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


def scores_with_replay(
    stream: AbstractStream, history: MemoryHistory | None, store: str
) -> list[list[float]]:
    """Train one network along a stream in Avalanche, with replay of a memory.

    The stock ``ReplayPlugin`` mixes current data and memory in each batch, with hard
    labels and cross-entropy. The memory equals the one ``DistilledBuffer`` would fill.

    Args:
        stream: the current data.
        history: the content of the memory after each experience; None to train without
            one.
        store: the form of its stored images.

    Returns:
        For each experience, the accuracy on it and on each one before.
    """
    with _quiet():
        from avalanche.benchmarks import benchmark_from_datasets
        from avalanche.benchmarks.utils import as_classification_dataset
        from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
        from avalanche.training.supervised import Naive

        from dd_avalanche.replay.buffer import DistilledBuffer

    class HistoryBuffer(DistilledBuffer):
        """A buffer with the memory of each experience taken from the history."""

        def post_adapt(self, agent_state: Any, exp: Any) -> None:
            assert history is not None
            part = agent_state.clock.train_exp_counter
            self.take(history.at(part, store))

        def update(self, strategy: Any, **kwargs: Any) -> None:
            """Take the memory, without Avalanche 0.6's warning about its own call."""
            self.post_adapt(strategy, strategy.experience)

    experiment = stream.experiment
    benchmark = benchmark_from_datasets(
        train=[
            as_classification_dataset(_ModelImages(*stream.train(part)))
            for part in range(experiment.experiences)
        ]
    )
    network = stream.fresh_network("network", 0)
    plugins = []
    if history is not None:
        most = history.memory.size
        buffer = HistoryBuffer(most, augmented_copies=experiment.augmented_copies)
        plugins = [ReplayPlugin(most, storage_policy=buffer)]
    scores = []
    with _quiet(), untouched_randomness(stream.device):
        _seed_globally(stream.seed, stream.device)
        strategy = Naive(
            model=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=_REPLAY_RATE),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=experiment.batch_size,
            train_epochs=experiment.epochs,
            device=stream.device,
            plugins=plugins,
            evaluator=EvaluationPlugin(),
        )
        for part, experience in enumerate(benchmark.train_stream):
            strategy.train(experience)
            scores.append(stream.score(network.eval(), part + 1))
    return scores


def _seed_globally(seed: int, device: torch.device) -> None:
    """Seed torch's global generators for batches, and for layers on a device.

    ``torch.manual_seed`` would seed those of all other GPUs as well.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Avalanche's own warnings: none is about the user's code."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
