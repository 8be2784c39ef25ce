"""RDED: what it chooses is what it keeps, with the teacher's labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dd_plugins
from dd_plugins.api import DistilledSet, OptionError, RealSampler
from dd_plugins.distillers.rded import RDED
from dd_plugins.networks.resnet import ResNet18
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.views import Views
from dd_plugins.testing import toy_data
from dd_plugins.training.kept_networks import TrainedNetwork
from dd_plugins.training.recipes import Recipe

RECIPE = "recipe(steps=6, learning_rate=0.05, optimizer='sgd', norm_momentum=0.5)"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))


def chosen(options: str = "", **run: Any) -> DistilledSet:
    return dd_plugins.distill(
        toy_data(validation=0.0),
        f"rded(teacher_recipe={RECIPE}{options})",
        network="resnet18(width=4, normalization='batch')",
        images_per_class=2,
        device="cpu",
        precision="float32",
        plugins=Plugins(load=[]),
        **run,
    )


@pytest.mark.parametrize("factor", [1, 2])
def test_images_are_crops_of_the_real_images_that_the_header_names(factor: int) -> None:
    made = chosen(f", factor={factor}, smallest=1.0")
    indices = made.header.initial_indices
    assert indices is not None
    data = toy_data(validation=0.0)
    assert data.train_indices.tolist() == sorted(data.train_indices.tolist())
    places = {index: place for place, index in enumerate(data.train_indices.tolist())}
    real = data.train.images[[places[index] for index in indices]]
    assert data.train.labels[[places[i] for i in indices]].tolist() == [0, 0, 1, 1]
    side = 8 // factor
    expected = torch.nn.functional.interpolate(
        real, size=(side, side), mode="bilinear", antialias=True
    )
    found = made.pixels()[..., :side, :side]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_more_steps_move_nothing() -> None:
    assert torch.equal(chosen(steps=1).images, chosen(steps=3).images)


def test_a_teacher_labels_its_views() -> None:
    made = chosen(", factor=2")
    record = made.header.views
    assert record is not None
    assert record.teacher is not None
    assert record.views == repr(Views(count=300, smallest=0.5, mix="cutmix"))
    assert record.group is None, "by the statistics of the real data"


@pytest.mark.parametrize(("per_class", "batch"), [(1, 10), (10, 50), (50, 100)])
def test_networks_learn_by_the_published_recipe(per_class: int, batch: int) -> None:
    task = Task("cifar10", (3, 32, 32), 10, per_class)
    student = RDED().for_task(task).student
    assert student is not None
    assert (student.batch_size, student.decay) == (batch, "half-cosine")
    assert (student.optimizer, student.learning_rate) == ("adamw", 1e-3)
    assert (student.temperature, student.scale_loss) == (20.0, False)
    assert student.steps == 300 * (10 * per_class // batch)
    with pytest.raises(OptionError, match=r"labels, 20\.0, got 4\.0"):
        RDED(student=replace(student, temperature=4.0)).for_task(task)


def test_a_class_with_too_few_images_is_told() -> None:
    with pytest.raises(OptionError, match="images per class"):
        chosen(", factor=8")


def test_teachers_that_no_file_holds_are_trained_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[TrainedNetwork] = []
    obtain = TrainedNetwork.obtain

    def counted(self: TrainedNetwork, *given: Any) -> Any:
        trained.append(self)
        return obtain(self, *given)

    monkeypatch.setattr(TrainedNetwork, "obtain", counted)
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")
    real = RealSampler(images, torch.arange(20) % 2, seed=0, device=cpu)
    task, network = Task("toy", (1, 8, 8), 2, 2), ResNet18(width=4)
    method = RDED(teacher_recipe=Recipe(steps=2)).for_task(task)
    run = Run(task, "rded", network, 1, 0, cpu)
    method.first_images(run, real, method.choose(run, real), images.__getitem__)
    assert len(method.setup(run, real).teachers) == len(trained) == 1


def test_a_factor_that_does_not_divide_the_image_is_told() -> None:
    with pytest.raises(OptionError, match="factor must divide the 8x8"):
        chosen(", factor=3")


@pytest.mark.parametrize("spec", ["rded", "sre2l"])
def test_a_single_class_is_refused_by_methods_with_a_teacher(spec: str) -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    data = dd_plugins.RealData.from_values(torch.rand(20, 1, 8, 8), labels)
    with pytest.raises(OptionError, match=f"{spec}.*class"):
        dd_plugins.distill(data, spec, steps=1)
