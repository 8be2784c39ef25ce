"""The data of a stream: its orders of classes and its space."""

import pytest

import dd_plugins
from dd_avalanche.comparison.continual import continual
from dd_avalanche.comparison.experiment import Experiment
from dd_avalanche.comparison.streams import ClassStream

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)


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
