"""The data of a stream: its orders of classes and its space."""

import pytest
import torch
from torch import Tensor

import dd_plugins
from dd_avalanche.comparison.continual import continual
from dd_avalanche.comparison.experiment import Experiment
from dd_avalanche.comparison.streams import ClassStream


def test_orders_are_those_that_the_papers_publish() -> None:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(benchmark="split-digits")
    stream = ClassStream(experiment, data, data.read_test(), seed=1)
    # numpy.random.RandomState(1).permutation(10)
    assert stream.order == [[2, 9], [6, 4], [0, 3], [1, 7], [8, 5]]
    images, labels = stream.train(0)
    assert set(labels.tolist()) == {2, 9}
    # The space is that of the first experience: later classes were not looked at.
    assert float(images.mean()) == pytest.approx(0, abs=1e-4)
    later, _ = stream.train(1)
    assert abs(float(later.mean())) > 1e-3


def test_images_may_be_whitened_by_the_first_experience() -> None:
    data = dd_plugins.get_dataset("digits")
    curves = []
    for whitening in ("none", "first"):
        experiment = Experiment(
            "split-digits", memory=50, training_steps=60, whitening=whitening
        )  # type: ignore[arg-type]
        rows = continual(experiment, ["random"], data=data)
        curves.append(rows[0].streams[0].curve)
    assert curves[0] != curves[1]
    assert all(curve[-1] is not None and curve[-1] > 0.2 for curve in curves)


def class_stream(seed: int = 0) -> ClassStream:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(
        "split-digits", training_steps=2, network="conv(width=4, depth=2)"
    )
    return ClassStream(experiment, data, data.read_test(), seed=seed)


def test_experiences_part_the_data() -> None:
    stream = class_stream()
    labels = [stream.train(part)[1] for part in range(5)]
    for found, classes in zip(labels, stream.order, strict=True):
        assert set(found.tolist()) == set(classes)
    assert sum(map(len, labels)) == len(stream.data.train.labels)
    for test, classes in zip(stream.tests, stream.order, strict=True):
        assert set(test.labels.tolist()) == set(classes)
    assert sum(len(test.labels) for test in stream.tests) == len(stream.test.labels)


def test_networks_are_a_function_of_seed_purpose_and_step() -> None:
    def weights(stream: ClassStream, purpose: str, step: int) -> list[float]:
        network = stream.fresh_network(purpose, step)
        return [float(each.detach().norm()) for each in network.parameters()]

    stream, other = class_stream(), class_stream(seed=1)
    first = weights(stream, "network", 0)
    assert weights(class_stream(), "network", 0) == first
    assert weights(stream, "network", 1) != first
    assert weights(stream, "another", 0) != first
    assert weights(other, "network", 0) != first


def test_scores_are_the_accuracy_on_each_experience() -> None:
    stream = class_stream()
    chosen = stream.order[1][0]

    def always(images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 10)
        logits[:, chosen] = 1
        return logits

    scores = stream.score(always, 3)
    share = (stream.tests[1].labels == chosen).float().mean()
    assert scores == pytest.approx([0, float(share), 0])
    assert len(stream.joint) == 5
    assert stream.joint is stream.joint, "trained once"
