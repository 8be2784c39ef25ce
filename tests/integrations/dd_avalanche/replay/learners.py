"""Small benchmarks, models, strategies and buffers for the tests."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import dd_plugins

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.scenarios import (
    class_incremental_benchmark,
    new_instances_benchmark,
)
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    _make_taskaware_classification_dataset,
    as_classification_dataset,
)
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import MultiHeadClassifier
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.plugins import (
    EvaluationPlugin,
    ReplayPlugin,
    SupervisedPlugin,
)
from avalanche.training.supervised import Naive

from dd_avalanche import (
    DistilledBuffer,
    DistilledGDumb,
    DistilledReplayPlugin,
    SoftTargets,
)

FREPO = "frepo(pool_size=1, real_batch_size=32, learning_rate=0.01)"


OPTIONS: dict[str, Any] = {
    "num_classes": 10,
    "steps": 3,
    "network": "conv(width=4, depth=2)",
    "augmented_copies": 0,
}


class Digits(Dataset[tuple[Tensor, int]]):
    """A few digits as tensors, as a torchvision data set with ToTensor gives them."""

    def __init__(self, part: str, count: int = 400, transform: Any = None) -> None:
        data = dd_plugins.get_dataset("digits")
        images, labels = data.train if part == "train" else data.read_test()
        assert isinstance(images, Tensor)
        self.images = (images[:count].float() / images.max()).contiguous()
        self.targets = labels[:count].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        if self.transform is not None:
            image = self.transform(image)
        return image, self.targets[index]


def benchmark(kind: str) -> Any:
    train, test = Digits("train"), Digits("test")
    match kind:
        case "class-incremental, with tasks of nc_benchmark":
            return nc_benchmark(train, test, 5, task_labels=False, seed=0)
        case "task-incremental":
            return nc_benchmark(
                train,
                test,
                5,
                task_labels=True,
                seed=0,
                class_ids_from_zero_in_each_exp=True,
            )
        case "class-incremental":
            plain = {
                "train": as_classification_dataset(train),
                "test": as_classification_dataset(test),
            }
            return class_incremental_benchmark(plain, num_experiences=5, seed=0)
        case "class-incremental, task-aware":
            aware = {
                name: _make_taskaware_classification_dataset(data, task_labels=0)
                for name, data in (("train", train), ("test", test))
            }
            return class_incremental_benchmark(aware, num_experiences=5, seed=0)
        case "domain-incremental":
            return new_instances_benchmark(
                as_classification_dataset(train),
                as_classification_dataset(test),
                num_experiences=3,
                shuffle=True,
                seed=0,
            )
    raise AssertionError(kind)


BENCHMARKS = [
    "class-incremental, with tasks of nc_benchmark",
    "task-incremental",
    "class-incremental",
    "class-incremental, task-aware",
    "domain-incremental",
]


class MultiHead(MultiTaskModule):  # type: ignore[misc]
    """A head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.head = MultiHeadClassifier(16)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(x), task_labels)
        return found


def network(kind: str = "") -> nn.Module:
    torch.manual_seed(0)
    if kind == "task-incremental":
        return MultiHead()
    norm = nn.BatchNorm1d(16) if kind == "with buffers" else nn.ReLU()
    last = nn.Linear(16, 10)
    if kind == "with buffers":
        last = nn.utils.parametrizations.spectral_norm(last)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), norm, last)


def strategy(model: nn.Module, plugins: list[Any], **options: Any) -> Any:
    given: dict[str, Any] = {
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 16,
        "eval_mb_size": 200,
        "evaluator": EvaluationPlugin(accuracy_metrics(stream=True)),
        "plugins": plugins,
    }
    return Naive(model=model, **(given | options))


def buffer(labels: Any = "hard", size: int = 20, **options: Any) -> DistilledBuffer:
    return DistilledBuffer(size, FREPO, labels=labels, **(OPTIONS | options))


def plugins_for(how: str, held: DistilledBuffer) -> list[Any]:
    if how == "own batch":
        return [DistilledReplayPlugin(held)]
    if how == "from scratch":
        return [DistilledGDumb(held)]
    stock = ReplayPlugin(held.max_size, storage_policy=held)
    return [stock, SoftTargets(held)] if held.labels == "learned" else [stock]


class Losses(SupervisedPlugin):  # type: ignore[misc]
    """Keep the loss of each iteration: after training a strategy's own is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.losses.append(float(strategy.loss))


class Few(Dataset[Any]):
    """Items of any layout."""

    def __init__(self, make: Any, low: int = 0, count: int = 12) -> None:
        self.targets = [low + place % 2 for place in range(count)]
        self.make = make

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(1, 8, 8, generator=generator)
        return self.make(image, self.targets[index], index)


def labelled(make: Any, low: int = 0, *attributes: DataAttribute) -> AvalancheDataset:
    few = Few(make, low)
    targets = DataAttribute(few.targets, "targets")
    return AvalancheDataset([few], data_attributes=[targets, *attributes])


def chosen(size: int = 8, **options: Any) -> DistilledBuffer:
    return DistilledBuffer(size, "random", **(OPTIONS | options))


def pair(image: Tensor, label: int, place: int) -> tuple[Any, Any]:
    return image, label
