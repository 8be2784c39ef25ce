"""Expert trajectories: kept once, and the way that training takes."""

from pathlib import Path

import pytest
import torch

from dd_plugins.api import Recipe, TrainedNetwork, get_network
from dd_plugins.data.draws import sampler_of
from dd_plugins.errors import FileError, OptionError
from dd_plugins.run import Run, Task
from dd_plugins.testing import toy_data
from dd_plugins.training.trajectories import Trajectory

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
    assert torch.equal(weights[0], flat(TRAINED.fresh(run)[0]))
    whole = Trajectory(TRAINED, every=7).obtain(run, real, tmp_path)
    assert torch.equal(whole[1], flat(TRAINED.obtain(run, real, tmp_path)))
    assert len({tuple(each.tolist()) for each in weights}) == 4


def test_a_kept_trajectory_is_read_and_a_damaged_one_refused(tmp_path: Path) -> None:
    run, real = setting()
    trajectory = Trajectory(TRAINED, every=3)
    first = trajectory.obtain(run, real, tmp_path)
    path = trajectory.path(run, real, tmp_path)
    written = path.stat().st_mtime_ns
    assert torch.equal(trajectory.obtain(run, real, tmp_path), first)
    assert path.stat().st_mtime_ns == written
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="trained again"):
        trajectory.obtain(run, real, tmp_path)
    other = Trajectory(TRAINED, every=4).path(run, real, tmp_path)
    path.rename(other)
    assert other != path


def test_snapshots_that_are_nowhere_are_refused() -> None:
    with pytest.raises(OptionError, match="expected at least 1 step, got 0"):
        Trajectory(TRAINED, every=0)
