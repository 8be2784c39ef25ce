"""Class-incremental digits with replay of a memory of 30 images."""

import warnings

import torch
from avalanche.benchmarks.scenarios import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from dd_avalanche import DistilledBuffer

warnings.simplefilter("ignore")  # Avalanche 0.6 has many
torch.manual_seed(0)


def digits(part: slice) -> TensorDataset:
    bunch = load_digits()
    images = torch.tensor(bunch.images[part], dtype=torch.float32)[:, None]
    targets = torch.tensor(bunch.target[part])
    dataset = TensorDataset((images - 4.9) / 6.0, targets)
    dataset.targets = targets.tolist()
    return dataset


benchmark = class_incremental_benchmark(
    {
        "train": as_classification_dataset(digits(slice(0, 1400))),
        "test": as_classification_dataset(digits(slice(1400, None))),
    },
    num_experiences=5,
    seed=0,
)
model = torch.nn.Sequential(
    torch.nn.Flatten(),
    torch.nn.Linear(64, 128),
    torch.nn.ReLU(),
    torch.nn.Linear(128, 10),
)
strategy = Naive(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
    train_mb_size=16,
    train_epochs=2,
    plugins=[ReplayPlugin(30, storage_policy=DistilledBuffer(30))],
    evaluator=EvaluationPlugin(accuracy_metrics(stream=True)),
)
for experience in benchmark.train_stream:
    strategy.train(experience)
(accuracy,) = strategy.eval(benchmark.test_stream).values()
print("final accuracy", round(accuracy, 4))
