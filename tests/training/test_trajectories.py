"""Expert trajectories: kept once, and the way that training takes."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_networks import Dropping

from dd_plugins import AbstractNetwork, RealData
from dd_plugins.api import Recipe, TrainedNetwork, get_network
from dd_plugins.data.draws import sampler_of
from dd_plugins.errors import FileError, OptionError, RunError
from dd_plugins.run import Run, Task
from dd_plugins.runtime.kept_tensors import save_tensors
from dd_plugins.testing import toy_data
from dd_plugins.training.experts import train_experts
from dd_plugins.training.trajectories import (
    Trajectory,
    _fractions_along,
    set_weights,
)

CPU = torch.device("cpu")
# As MTT trains its experts: without momentum.
RECIPE = Recipe(
    steps=7, learning_rate=0.05, optimizer="sgd", momentum=0.0, decay="none"
)
TRAINED = TrainedNetwork(get_network("mlp(width=4)"), RECIPE)


def setting():
    data = toy_data()
    _, real = sampler_of(data, seed=0, device=CPU, precision=torch.float32)
    task = Task(data.name, data.image_shape, data.num_classes, 1)
    return Run(task, "", TRAINED.network, 1, 0, CPU), real


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in module.parameters()])


def test_snapshots_are_the_way_of_the_trained_network(tmp_path: Path) -> None:
    run, real = setting()
    trajectory = Trajectory(TRAINED, every=2)
    weights = trajectory.obtain(run, real, tmp_path)
    assert trajectory.steps == [0, 2, 4, 6]
    assert len(weights) == 4
    assert torch.equal(weights[0], flat(TRAINED.fresh(run)[0]))
    whole = Trajectory(TRAINED, every=7).obtain(run, real, tmp_path)
    assert torch.equal(whole[1], flat(TRAINED.obtain(run, real, tmp_path)))
    assert len({tuple(each.tolist()) for each in weights}) == 4
    module, _ = TRAINED.fresh(run)
    set_weights(module, weights[3])
    assert torch.equal(flat(module), weights[3])


def test_a_kept_trajectory_is_read_and_a_damaged_one_refused(tmp_path: Path) -> None:
    run, real = setting()
    trajectory = Trajectory(TRAINED, every=3)
    first = trajectory.obtain(run, real, tmp_path)
    path = trajectory.path(run, real, tmp_path)
    written = path.stat().st_mtime_ns
    assert torch.equal(
        torch.stack(list(trajectory.obtain(run, real, tmp_path))),
        torch.stack(list(first)),
    )
    assert path.stat().st_mtime_ns == written
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="trained anew"):
        trajectory.obtain(run, real, tmp_path)


def test_snapshots_of_another_network_are_refused(tmp_path: Path) -> None:
    run, real = setting()
    trajectory = Trajectory(TRAINED, every=3)
    trajectory.obtain(run, real, tmp_path)
    path = trajectory.path(run, real, tmp_path)
    other = Trajectory(TrainedNetwork(get_network("mlp(width=5)"), RECIPE), every=3)
    path.rename(other.path(run, real, tmp_path))
    with pytest.raises(FileError, match="does not match its key"):
        other.obtain(run, real, tmp_path)
    other.obtain(run, real, tmp_path / "elsewhere")
    described = other.described(run, real)
    save_tensors(
        other.path(run, real, tmp_path),
        {"weights": torch.zeros(3, 7)},
        {"description": described},
    )
    with pytest.raises(FileError, match=r"expected snapshots of mlp\(width=5\)"):
        other.obtain(run, real, tmp_path)


@pytest.mark.parametrize("named", [True, False])
def test_way_points_lie_on_straight_lines(tmp_path: Path, named: bool) -> None:
    run, real = setting()
    if not named:
        real.content = None
    full = Trajectory(TRAINED, every=1).obtain(run, real, tmp_path)
    few = Trajectory(TRAINED, every=1, way_points=3)
    kept = few.obtain(run, real, tmp_path)
    assert few.is_kept(run, real, tmp_path) == named
    assert len(kept) == len(full) == 8
    points = [0, 4, 7]  # the middle of 0 to 7 is rounded to the even number
    for number in points:
        assert torch.equal(kept[number], full[number])
    sizes = [each.numel() for each in TRAINED.fresh(run)[0].parameters()]
    for first, last in itertools.pairwise(points):
        ways = [
            [each.norm() for each in (full[n + 1] - full[n]).split(sizes)]
            for n in range(first, last)
        ]
        lengths = torch.tensor(ways).cumsum(dim=0)
        for number in range(first + 1, last):
            done = lengths[number - first - 1] / lengths[-1]
            expected = [
                one + part * (other - one)
                for one, other, part in zip(
                    full[first].split(sizes), full[last].split(sizes), done, strict=True
                )
            ]
            torch.testing.assert_close(kept[number], torch.cat(expected))
    with pytest.raises(IndexError):
        kept[8]


def test_a_diverged_expert_is_not_kept(tmp_path: Path) -> None:
    run, real = setting()
    wild = replace(RECIPE, learning_rate=1e30)
    trajectory = Trajectory(TrainedNetwork(TRAINED.network, wild), every=1)
    with pytest.raises(RunError, match=r"not finite .* lower the learning rate of its"):
        trajectory.obtain(run, real, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    run, real = setting()
    trajectory = Trajectory(TRAINED, every=1, way_points=3)
    for way_points in (None, 3):
        trajectory = replace(trajectory, way_points=way_points)
        kept = trajectory.obtain(run, real, tmp_path)
        trajectory.path(run, real, tmp_path).unlink()
        with pytest.raises(FileError, match="cannot be read"):
            kept[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "mlp"}, "network must be a network of dd-plugins"),
        ({"recipe": "recipe(steps=3)"}, "recipe must be a recipe of dd-plugins"),
        ({"every": 1.5}, "every"),
        ({"way_points": 2.5}, "way_points"),
        ({"experts": 0}, "experts"),
        ({"data": "digits"}, "data must be RealData"),
    ],
)
def test_wrong_arguments_of_experts_are_refused(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    usual = {"data": toy_data(), "network": TRAINED.network, "recipe": RECIPE}
    usual |= {"experts": 1, "every": 3, "folder": tmp_path}
    with pytest.raises(OptionError, match=message):
        next(train_experts(**(usual | wrong)))


def test_experts_are_of_the_network_that_is_distilled_on(tmp_path: Path) -> None:
    network = get_network("conv(width=4, depth=2)")
    arguments = {"experts": 1, "every": 7, "folder": tmp_path}
    (report,) = train_experts(toy_data(), network, RECIPE, **arguments)
    assert report.network == repr(network.for_distillation()) != repr(network)


def test_a_tensor_that_never_moves_is_evenly_spaced() -> None:
    lengths = torch.tensor([[0.0, 0.0], [0.0, 3.0], [0.0, 4.0]])
    along = _fractions_along(lengths, [0, 2])
    torch.testing.assert_close(along, torch.tensor([[0, 0], [0.5, 0.75], [1, 1]]))


def test_a_file_of_way_points_is_smaller(tmp_path: Path) -> None:
    run, real = setting()
    sizes = []
    for points in (None, 2):
        trajectory = Trajectory(TRAINED, every=1, way_points=points)
        trajectory.obtain(run, real, tmp_path)
        sizes.append(trajectory.path(run, real, tmp_path).stat().st_size)
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize(
    ("network", "held_out", "scored"),
    [
        (get_network("mlp(width=4, normalization='batch')"), 5, True),
        (get_network("mlp(width=4, normalization='batch')"), 1, False),
        (get_network("mlp(width=4)"), 1, True),
        (Dropping(), 5, True),
    ],
)
def test_an_expert_is_scored_on_any_number_of_images(
    network: AbstractNetwork,
    held_out: int,
    scored: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dd_plugins.training.outputs.chunk_size", lambda shape: 4)
    images, labels = toy_data().train
    data = RealData.from_tensors(
        images[:], labels, validation=(images[:held_out], labels[:held_out])
    )
    drawn = torch.random.get_rng_state()
    (report,) = train_experts(
        data, network, RECIPE, experts=1, every=7, device="cpu", folder=str(tmp_path)
    )
    assert (report.validation_accuracy is not None) == scored
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_experts_are_reported_as_they_are_kept(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    arguments = {
        "data": toy_data(),
        "network": TRAINED.network,
        "recipe": RECIPE,
        "experts": 2,
        "every": 3,
        "folder": tmp_path,
        "on_progress": lambda *told: steps.append(told),
    }
    reports = train_experts(**arguments)
    first = next(reports)  # stopped here: the second is missing
    assert (first.seed, first.snapshots, first.was_there) == (0, 3, False)
    assert first.validation_accuracy is not None
    assert steps[-1] == ("expert 1 of 2", 7, 14)
    again = list(train_experts(**arguments))
    assert steps[-1] == ("expert 2 of 2", 7, 7), "what is kept is no work"
    assert [each.was_there for each in again] == [True, False]
    assert again[0].validation_accuracy == first.validation_accuracy
    assert len({each.file for each in again}) == 2
    assert all(each.was_there for each in train_experts(**arguments))


def test_snapshots_that_are_nowhere_are_refused() -> None:
    with pytest.raises(OptionError, match="expected at least 1 step, got 0"):
        Trajectory(TRAINED, every=0)
    with pytest.raises(OptionError, match=r"every: expected at most 7.*got 8"):
        next(train_experts(toy_data(), TRAINED.network, RECIPE, experts=1, every=8))
    for points in (1, 9):
        with pytest.raises(OptionError, match=f"expected 2 to 8.*got {points}"):
            Trajectory(TRAINED, every=1, way_points=points)
