"""The experts of a run: read from files, trained by its processes, or refused."""

from functools import partial
from pathlib import Path

from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.run import Run
from dd_plugins.training.obtaining import Missing, obtained, training_command
from dd_plugins.training.trajectories import Snapshots, Trajectory

__all__ = ["experts_obtained"]


def experts_obtained(
    trajectories: list[Trajectory], run: Run, real: RealSampler, missing: Missing
) -> list[Snapshots]:
    """Return the snapshots of all experts; train the missing ones.

    Raises:
        OptionError: experts are missing, and ``missing`` forbids training.
        FileError: the file of an expert is damaged or is not what its name says.
        RunError: the weights of an expert became infinite or NaN.
    """
    refusal = partial(_refusal, trajectories, run, real)
    return list(
        obtained(trajectories, run, real, missing, what="expert", refusal=refusal)
    )


def _refusal(
    trajectories: list[Trajectory],
    run: Run,
    real: RealSampler,
    count: int,
    folder: Path,
) -> OptionError:
    """Return the error, with the remedy: the command for training missing experts."""
    missing = (
        f"mtt: {count} of {len(trajectories)} experts for {run.task.dataset} are "
        f"missing in {folder}"
    )
    if real.content is not None and real.content.endswith(" turns"):
        return OptionError(
            f"{missing}; no command trains experts of rotated images: take "
            "missing_experts='train'"
        )
    first = trajectories[0]
    options: dict[str, object] = {
        "dataset": run.task.dataset,
        "network": repr(run.network),
        "experts": len(trajectories),
        "every": first.every,
        "recipe": repr(first.trained.recipe),
        "precision": str(run.precision).removeprefix("torch."),
    }
    if first.way_points is not None:
        options["way-points"] = first.way_points
    command = training_command("train-experts", options.items())
    return OptionError(
        f"{missing}; train them: {command}, with the data options of this run (for "
        "data without a name, dd_plugins.api.train_experts)"
    )
