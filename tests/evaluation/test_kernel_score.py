"""The kernel score: plain regression from the set, beside trained networks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BRIEFLY, Command

import dd_plugins
from dd_plugins import DistilledSet
from dd_plugins.data.subsets import class_members, random_members
from dd_plugins.errors import OptionError
from dd_plugins.evaluation.asked_scores import asked_scores
from dd_plugins.evaluation.kernel_score import KernelScore
from dd_plugins.functional.ntk import Convolutional, FullyConnected
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.testing import toy_data

DATA = toy_data()
QUICK: dict[str, Any] = {
    "networks": "mlp(width=4)",
    "repeats": 2,
    "protocol": "recipe(steps=2)",
    "data": DATA,
}


def by_hand(
    kernel: Any,
    images: torch.Tensor,
    labels: torch.Tensor,
    made: DistilledSet,
    relative: float = 1e-6,
) -> float:
    """Solve in float64, and count the test images that are right."""
    test = DATA.read_test()
    support, others = images.double(), made.transform(test.images).double()
    own = kernel(support, support)
    ridge = relative * own.trace() / len(own) * torch.eye(len(own), dtype=torch.float64)
    weights = torch.linalg.solve(own + ridge, labels.double())
    predicted = kernel(others, support) @ weights
    return float((predicted.argmax(dim=1) == test.labels).double().mean())


@pytest.mark.parametrize("spec", ["kip(real_batch_size=16)", "dm(real_batch_size=16)"])
def test_the_score_is_that_of_plain_regression(spec: str) -> None:
    made = dd_plugins.distill(DATA, spec, steps=3, network="mlp(width=4)")
    found = dd_plugins.evaluate(made, scores="kernel", **QUICK)
    labels = made.labels
    if spec.startswith("dm"):
        labels = labels - 1 / DATA.num_classes
    expected = by_hand(FullyConnected(), made.images, labels, made)
    assert found.kernel is not None
    assert found.kernel.accuracies == (expected,)
    assert found.kernel.spec == "kernel(of=fc, ridge=1e-06)"
    assert found.random_kernel is None
    assert found.as_dict()["scores"]["kernel"]["accuracies"] == [expected]
    assert "scores" not in dd_plugins.evaluate(made, **QUICK).as_dict()


def test_random_images_are_scored_beside_the_set() -> None:
    made = dd_plugins.distill(DATA, "dm", steps=1, network="mlp(width=4)")
    asked = "kernel(of=conv(depth=1), ridge=0.001)"
    options = QUICK | {"baselines": True, "full_steps": 5}
    found = dd_plugins.evaluate(made, scores=asked, **options)
    assert found.kernel is not None
    assert found.random_kernel is not None
    assert found.kernel.spec == found.random_kernel.spec == asked
    train = DATA.train
    labels = torch.eye(DATA.num_classes)[train.labels] - 1 / DATA.num_classes
    expected = []
    for repeat in range(QUICK["repeats"]):
        members = class_members(train.labels)
        generator = generator_for(0, "random real images", repeat)
        chosen = random_members(members, [1] * DATA.num_classes, generator)
        images = made.transform(train.images[chosen])
        expected.append(
            by_hand(Convolutional(depth=1), images, labels[chosen], made, 1e-3)
        )
    assert found.random_kernel.accuracies == tuple(expected)


def test_the_kernel_and_the_ridge_are_those_of_the_method() -> None:
    method = dd_plugins.get_distiller("clip(kip(kernel=conv(depth=2), ridge=0.5))")
    own = KernelScore(of=Convolutional(depth=2), ridge=0.5)
    assert KernelScore().settled_for(method) == own
    given = KernelScore(of=FullyConnected(depth=3), ridge=0.1)
    assert given.settled_for(method) == given
    usual = KernelScore(of=FullyConnected(), ridge=1e-6)
    without = dd_plugins.get_distiller("clip(dm)")
    assert KernelScore().settled_for(without) == usual


def test_other_scores_are_refused_before_a_network_is_trained() -> None:
    trained: list[Any] = []
    for wrong, match in (
        ("accuracy", "expected lrs, ars, hard, retrieval or kernel, such as"),
        ("kernel,kernel", "expected kernel once"),
        ("lrs(weight=1)", "expected lrs, ars"),
        ("kernel(of=conv(depth=9, pooling=True))", "conv"),
    ):
        made = dd_plugins.distill(DATA, "random", network="mlp(width=4)")
        with pytest.raises(OptionError, match=match):
            dd_plugins.evaluate(
                made,
                scores=wrong,
                on_progress=lambda *told: trained.append(told),
                **QUICK,
            )
    assert not trained
    assert asked_scores(None).kernel is None
    assert asked_scores("kernel").kernel == KernelScore()


def test_the_command_shows_it(command_line: Command, tmp_path: Path) -> None:
    words = ["--distiller", "kip(real_batch_size=16)", "--steps", 2, "--out", "run"]
    assert command_line("distill", *words).returncode == 0
    words = ["--network", "mlp(width=4)", "--repeats", 1, "--baselines"]
    words += ["--protocol", "recipe(steps=2)", "--scores", "kernel"]
    done = command_line(
        "evaluate", "run", *words, "--json", "found.json", COLUMNS="200", code=BRIEFLY
    )
    assert done.returncode == 0, done.stderr
    assert "kernel(of=fc, ridge=1e-06), no network" in done.stdout
    assert done.stdout.count("random real images") == 2
    assert '"random_kernel"' in (tmp_path / "found.json").read_text()
