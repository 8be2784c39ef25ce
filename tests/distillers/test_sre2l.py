"""SRe2L: its loss against one written out, its groups, views, teachers and refusals."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dd_plugins
from dd_plugins.api import DistilledSet, OptionError, RealSampler, Run, Task
from dd_plugins.data.draws import sampler_of
from dd_plugins.distillers.sre2l import SRe2L, _groups
from dd_plugins.networks.resnet import ResNet18
from dd_plugins.networks.vgg import VGG11
from dd_plugins.plugins.manager import Plugins
from dd_plugins.synthetic.leaves import Leaves, Parameters
from dd_plugins.synthetic.views import Views
from dd_plugins.testing import toy_data
from dd_plugins.training import kept_sequence
from dd_plugins.training.kept_sequence import KeptNetworks
from dd_plugins.training.recipes import Recipe

CPU = torch.device("cpu")
DATA = toy_data()
NETWORK = ResNet18(width=4, normalization="batch")
SQUEEZE = Recipe(steps=6, learning_rate=0.05, optimizer="sgd", norm_momentum=0.5)
STILL: dict[str, Any] = {"crop": False, "flip": False, "jitter": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run_of(per_class: int = 2, **options: Any) -> Run:
    task = Task(DATA.name, DATA.image_shape, DATA.num_classes, per_class, mirror=True)
    usual: dict[str, Any] = {"network": NETWORK, "steps": 10, "seed": 0, "device": CPU}
    return Run(task, "sre2l", **(usual | options))


def real() -> RealSampler:
    return sampler_of(DATA, seed=0, device=CPU, precision=torch.float32)[1]


def settled(**options: Any) -> SRe2L:
    usual = {"teacher_recipe": SQUEEZE}
    return SRe2L(**(usual | options)).for_task(run_of().task)


def leaves(per_class: int = 2) -> Leaves:
    classes = torch.arange(2).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randn(2 * per_class, 1, 8, 8, generator=generator)
    return Leaves(pixels.requires_grad_(), F.one_hot(classes, 2).float(), classes)


def inputs_of_norms(module: nn.Module, images: Tensor) -> list[tuple[Tensor, Any]]:
    found: list[tuple[Tensor, Any]] = []
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    handles = [
        each.register_forward_hook(lambda own, given, _: found.append((given[0], own)))
        for each in norms
    ]
    module(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("normalize", ["layer", "none"])
def test_gradient_is_that_of_each_group_s_loss_written_out(normalize: Any) -> None:
    method = settled(normalize=normalize, statistics_weight=0.3, **STILL)
    state, given = method.setup(run_of(), real()), leaves()
    metrics = method.accumulate(state, given, real(), step=0)
    teacher, expected, losses = state.teachers[0], torch.zeros(4, 1, 8, 8), []
    for group in ([0, 2], [1, 3]):  # one image of each class
        images = given.pixels.detach()[group].requires_grad_()
        distances, weights = [], []
        for number, (seen, norm) in enumerate(inputs_of_norms(teacher, images)):
            mean = seen.mean(dim=(0, 2, 3)) - norm.running_mean
            variance = seen.var(dim=(0, 2, 3), correction=0) - norm.running_var
            units = 1.0, 1.0
            if normalize == "layer":
                units = (
                    float(norm.running_var.sum()) ** 0.5,
                    float(norm.running_var.norm()),
                )
            weights.append(10.0 if number == 0 else 1.0)
            distances.append(
                weights[-1] * (mean.norm() / units[0] + variance.norm() / units[1])
            )
        distance = sum(distances)
        if normalize == "layer":
            distance = distance / sum(weights)
        loss = F.cross_entropy(teacher(images), torch.arange(2)) + 0.3 * distance
        losses.append(loss.item())
        (expected[group],) = torch.autograd.grad(loss, [images])
    assert given.pixels.grad is not None
    torch.testing.assert_close(given.pixels.grad, expected, rtol=1e-3, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(sum(losses) / 2, rel=1e-4)


def test_groups_hold_one_image_of_every_class() -> None:
    classes = torch.tensor([1, 0, 0, 2, 1, 0])
    found = [group.tolist() for group in _groups(classes, 100)]
    assert found == [[0, 1, 3], [2, 4], [5]]
    assert [len(part) for part in _groups(torch.arange(250), 100)] == [84, 83, 83]


def test_processes_share_the_groups() -> None:
    method = settled(**STILL)
    whole = leaves(4)
    told = method.accumulate(method.setup(run_of(4), real()), whole, real(), 0)
    parts, losses = [], []
    for rank in range(3):
        run, given = run_of(4, rank=rank, ranks=3), leaves(4)
        state = replace(method.setup(run_of(4), real()), run=run)
        method.accumulate(state, given, real(), 0)
        losses.append(method.accumulate(state, leaves(4), real(), 0)["loss"])
        parts.append(given.pixels.grad)
    assert whole.pixels.grad is not None
    torch.testing.assert_close(sum(losses) / 3, told["loss"])
    mean = sum(parts) / 3  # type: ignore[arg-type, operator]
    torch.testing.assert_close(mean, whole.pixels.grad)


def test_all_images_of_a_group_share_crop_flip_and_roll() -> None:
    rows = torch.arange(8.0).view(1, 1, 8, 1).expand(3, 1, 8, 8)
    method = settled(crop=True, smallest=0.2, flip=True, jitter=3)
    seen = set()
    for step in range(20):
        run = run_of()
        view = method._view(run, rows.contiguous(), run.generator("view", step), step)
        assert view.shape == rows.shape
        assert torch.equal(view[0], view[2])
        seen.add(tuple(view[0, 0, :, 0].tolist()))
    assert len(seen) > 15


def test_images_are_flipped_only_where_that_is_allowed() -> None:
    columns = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    method = settled(crop=False, flip=True, jitter=0)
    for mirror in (True, False):
        run = run_of()
        run = replace(run, task=replace(run.task, mirror=mirror))
        views = [
            method._view(run, columns, run.generator("view", step), step)
            for step in range(30)
        ]
        flipped = sum(not torch.equal(view, columns) for view in views)
        assert (5 < flipped < 25) if mirror else flipped == 0


def test_the_curriculum_shrinks_crops_by_a_cosine() -> None:
    method = settled(curriculum=True, smallest=0.08)
    assert method.crop
    found = [method._smallest(step, 100) for step in range(101)]
    expected = [
        0.08 + 0.92 * (1 + math.cos(math.pi * step / 100)) / 2 for step in range(101)
    ]
    assert found == pytest.approx(expected)
    plain = settled(smallest=0.08)
    assert {plain._smallest(step, 100) for step in range(101)} == {0.08}


def test_teachers_take_turns_and_are_read_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = (NETWORK, VGG11(width=4, normalization="batch"))
    method = settled(teachers=networks, **STILL)
    state = method.setup(run_of(), real())
    assert isinstance(state.teachers, KeptNetworks)
    gradients = []
    for step in range(3):
        given = leaves()
        method.accumulate(state, given, real(), step)
        gradients.append(given.pixels.grad)
    assert torch.equal(gradients[0], gradients[2])  # type: ignore[arg-type]
    assert not torch.allclose(gradients[0], gradients[1])  # type: ignore[arg-type]
    first = state.teachers[0]
    assert state.teachers[1] is not first
    for file in cache.iterdir():
        file.unlink()
    assert state.teachers[0] is first, "it is not read again"
    monkeypatch.setattr(kept_sequence, "memory_limit", lambda: 1_000)
    small = method.setup(run_of(), real())
    first = small.teachers[0]
    assert small.teachers[0] is first
    assert small.teachers[1] is not first
    assert small.teachers[0] is not first, "it was put out of memory"


def distilled(method: str, **options: Any) -> DistilledSet:
    return dd_plugins.distill(
        toy_data(validation=0.0),
        method,
        network=repr(NETWORK),
        steps=6,
        images_per_class=2,
        precision="float32",
        device="cpu",
        plugins=Plugins(load=[]),
        **options,
    )


RECIPE = repr(SQUEEZE)


def test_images_stay_in_range_and_are_named_with_their_teacher() -> None:
    made = distilled(f"sre2l(teacher_recipe={RECIPE}, learning_rate=5.0)")
    pixels = made.transform.invert(made.images)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert ((pixels < 1e-6) | (pixels > 1 - 1e-6)).any(), "such steps leave the range"
    record = made.header.views
    assert record is not None
    assert record.teacher is not None
    assert (record.teacher.network, record.teacher.recipe) == (repr(NETWORK), RECIPE)
    assert (record.temperature, record.group) == (20.0, 4)
    assert made.view_labels is None
    assert made.header.label_kind == "probabilities"
    assert torch.equal(made.labels.argmax(1), torch.tensor([0, 0, 1, 1]))
    assert made.header.initial_indices is not None


def test_packed_images_stay_in_range_as_well() -> None:
    made = distilled(
        f"sre2l(teacher_recipe={RECIPE}, learning_rate=5.0)",
        parametrization="packed(factor=2)",
    )
    pixels = made.transform.invert(made.images)
    assert -1e-5 <= float(pixels.min()) < 1e-5
    assert 1 - 1e-5 < float(pixels.max()) <= 1 + 1e-5


def test_labels_may_be_stored_beside_the_teacher_s_name() -> None:
    method = (
        f"sre2l(teacher_recipe={RECIPE}, store_labels=True, views=views(count=3), "
        "temperature=2.0)"
    )
    made = distilled(method)
    assert made.view_labels is not None
    assert made.view_labels.shape == (3, 4, 2)
    assert made.header.views is not None
    assert made.header.views.teacher is not None


def test_the_paper_s_preset_is_the_published_method() -> None:
    task = run_of(50).task
    small = SRe2L(preset="paper").for_task(task)
    assert (small.learning_rate, small.statistics_weight) == (0.25, 0.01)
    assert (small.normalize, small.crop, small.jitter) == ("none", False, 4)
    assert small.initial_images == "noise"
    assert small.student is not None
    assert (small.student.optimizer, small.student.temperature) == ("adamw", 30.0)
    assert not small.student.scale_loss
    assert small.views == Views(count=400, crop="padded", mix="mixup", alpha=0.8)
    assert small.default_steps(task) == 1_000
    task = replace(task, image_shape=(3, 64, 64))
    large = SRe2L(preset="paper").for_task(task)
    assert (large.learning_rate, large.statistics_weight) == (0.1, 1.0)
    assert (large.crop, large.group) == (True, None)
    assert large.student is not None
    assert (large.student.optimizer, large.student.learning_rate) == ("sgd", 0.2)
    assert large.student.scale_loss
    assert large.default_steps(task) == 4_000
    images = [torch.nn.Parameter(torch.zeros(2))]
    optimizer = large.optimizer(Parameters(tuple(images)))
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    schedule = large.schedule(optimizer, 4)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"] / 0.1)
        optimizer.step()
        schedule.step()
    expected = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(5)]
    assert rates == pytest.approx(expected, abs=1e-9)


def test_a_teacher_without_batch_norm_is_refused_before_it_is_trained(
    cache: Path,
) -> None:
    with pytest.raises(OptionError, match="has no BatchNorm"):
        settled(teachers=(ResNet18(width=4),)).setup(run_of(), real())
    assert not cache.exists()


def test_missing_teachers_may_be_refused_with_the_command() -> None:
    told = r"1 of 1 teachers for toy are missing.*train-networks --dataset toy"
    with pytest.raises(OptionError, match=told):
        settled(missing_teachers="refuse").setup(run_of(), real())
    settled().setup(run_of(), real())
    settled(missing_teachers="refuse").setup(run_of(), real())


def test_a_teacher_with_batch_norm_of_features_alone_is_refused() -> None:
    network = dd_plugins.get_network("mlp(width=4, normalization='batch')")
    with pytest.raises(OptionError, match="has no BatchNorm"):
        settled(teachers=(network,)).setup(run_of(), real())


def test_a_batch_norm_without_running_statistics_is_refused(cache: Path) -> None:
    def make(num_classes: int) -> nn.Module:
        norm = nn.BatchNorm2d(1, track_running_stats=False)
        return nn.Sequential(norm, nn.Flatten(), nn.Linear(64, num_classes))

    network = dd_plugins.get_network(make)
    with pytest.raises(OptionError, match=r"without running.*track_running_stats=True"):
        settled(teachers=(network,)).setup(run_of(), real())
    assert not cache.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"crop": False, "smallest": 0.5}, "no smallest one, got smallest=0.5"),
        ({"preset": "paper", "smallest": 0.5}, "take crop=True"),
        ({"statistics_weight": 0.0, "first_layer": 3.0}, "got first_layer=3.0"),
    ],
)
def test_options_without_effect_are_refused(options: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        settled(**options)


@pytest.mark.parametrize("preset", ["plus", "paper"])
def test_networks_learn_at_the_temperature_of_the_labels(preset: Any) -> None:
    method = settled(preset=preset, temperature=5.0)
    assert method.student is not None
    assert (method.temperature, method.student.temperature) == (5.0, 5.0)
    with pytest.raises(OptionError, match="must learn at the temperature"):
        settled(preset=preset, student=Recipe(steps=3))


def test_a_curriculum_without_crops_is_refused() -> None:
    with pytest.raises(OptionError, match="curriculum is one of crops"):
        settled(curriculum=True, crop=False)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("temperature=0.0", "temperature"),
        ("group=1", "at least 2 images"),
        ("group_size=1", "group_size"),
        ("smallest=0.0", "smallest"),
        ("statistics_weight=-1.0", "statistics_weight"),
    ],
)
def test_options_out_of_range_are_refused(option: str, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        dd_plugins.get_distiller(f"sre2l({option})")
