"""The experts of a run: found, or trained by its processes, or refused."""

import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import Literal

from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.run import Run
from dd_plugins.runtime import processes
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.training.trajectories import Snapshots, Trajectory

__all__ = ["MissingExperts", "obtained"]

MissingExperts = Literal["train", "refuse"]
"""What is done if an expert is missing."""

_TOLD_EVERY = 50  # training steps
_LOOK_EVERY = 0.2  # seconds


def obtained(
    trajectories: list[Trajectory],
    run: Run,
    real: RealSampler,
    missing: MissingExperts,
) -> list[Snapshots]:
    """Return the snapshots of all experts, trained now where they are missing.

    The processes of one machine, which share a folder, train some of them each.

    Raises:
        OptionError: experts are missing and are not to be trained.
        FileError: the file of an expert is damaged or is not what its name says.
        RunError: the weights of an expert became infinite or NaN.
    """
    folder = cache_folder()
    wanted = sum(not each.is_kept(run, real, folder) for each in trajectories)
    if wanted and missing == "refuse":
        raise _refusal(wanted, trajectories, run, folder)
    show = run.progress and run.rank == 0
    if wanted and show:
        sys.stderr.write(
            f"{wanted} of {len(trajectories)} experts are missing and are trained "
            f"now, {trajectories[0].trained.recipe.steps:,} steps each\n"
        )
    tell = partial(_tell, trajectories) if show else _tell_nothing
    if run.ranks > 1 and real.content is not None:
        first, every = processes.local_rank(), processes.local_world_size()
        for number in range(first, len(trajectories), every):
            trajectories[number].obtain(run, real, folder, partial(tell, number))
        # Not a collective call: it would give up while another process still trains.
        paths = [each.path(run, real, folder) for each in trajectories]
        while not all(path.exists() for path in paths):
            time.sleep(_LOOK_EVERY)
    found = [
        each.obtain(run, real, folder, partial(tell, number))
        for number, each in enumerate(trajectories)
    ]
    if wanted and show:
        sys.stderr.write("\n")
    return found


def _tell(trajectories: list[Trajectory], number: int, done: int) -> None:
    """Show how far the training of an expert is."""
    steps = trajectories[number].trained.recipe.steps
    if done % _TOLD_EVERY == 0 or done == steps:
        sys.stderr.write(
            f"\rexpert {number + 1} of {len(trajectories)}: {done:,} of {steps:,} "
            "training steps"
        )
        sys.stderr.flush()


def _tell_nothing(number: int, done: int) -> None:
    del number, done


def _refusal(
    count: int, trajectories: list[Trajectory], run: Run, folder: Path
) -> OptionError:
    """Return the error that names the command that trains missing experts."""
    first = trajectories[0]
    words = {
        "dataset": run.task.dataset,
        "network": repr(run.network),
        "experts": len(trajectories),
        "every": first.every,
        "recipe": repr(first.trained.recipe),
        "precision": str(run.precision).removeprefix("torch."),
    }
    if first.way_points is not None:
        words["way-points"] = first.way_points
    command = " ".join(f"--{name} {shlex.quote(str(v))}" for name, v in words.items())
    return OptionError(
        f"mtt: {count} of {len(trajectories)} experts for {run.task.dataset} are "
        f"missing in {folder}; train them: dd-plugins train-experts {command}, with "
        "the data options of this run (for data without a name, "
        "dd_plugins.api.train_experts)"
    )
