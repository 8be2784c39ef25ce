"""The trained objects needed by a run: loaded, or trained by its processes."""

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import DDError
from dd_plugins.run import Run
from dd_plugins.runtime import processes
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.training.kept_files import OnStep

__all__ = ["Missing", "Wanted", "obtained", "training_command"]

Missing = Literal["train", "refuse"]
"""The response to missing objects."""

_TOLD_EVERY = 50  # training steps

Found_co = TypeVar("Found_co", covariant=True)


class Wanted(Protocol[Found_co]):
    """An object trained on real data and kept in a file."""

    @property
    def training_steps(self) -> int:
        """The number of its training steps."""
        ...

    def is_keepable(self, real: RealSampler) -> bool:
        """Return whether a file may hold the object."""
        ...

    def is_kept(self, run: Run, real: RealSampler, folder: Path) -> bool:
        """Return whether the file exists."""
        ...

    def obtain(
        self, run: Run, real: RealSampler, folder: Path, on_step: OnStep = ...
    ) -> Found_co:
        """Return the object from its file, or train it and keep it there."""
        ...


def obtained(
    wanted: Sequence[Wanted[Found_co]],
    run: Run,
    real: RealSampler,
    missing: Missing,
    *,
    what: str,
    refusal: Callable[[int, Path], DDError],
) -> Iterator[Found_co]:
    """Yield the wanted objects one by one, and train the missing ones.

    The processes of one machine share a folder; each trains some of the objects.

    Args:
        wanted: the needed objects.
        run: the run.
        real: all training images.
        missing: whether to ``"train"`` missing objects, or to ``"refuse"`` the run.
        what: the name of one object for the progress line, such as ``"expert"``.
        refusal: returns the error for a number of missing objects and their folder.

    Raises:
        OptionError: objects are missing, and are not to be trained.
        FileError: a file is damaged or contradicts its name.
        RunError: weights became infinite or NaN, here or in another process.
    """
    folder = cache_folder()
    count = sum(not each.is_kept(run, real, folder) for each in wanted)
    if count and missing == "refuse":
        raise refusal(count, folder)
    show = bool(count) and run.progress and run.rank == 0
    if show:
        lengths = [each.training_steps for each in wanted]
        least, most = min(lengths), max(lengths)
        steps = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        sys.stderr.write(
            f"{count} of {len(wanted)} {what}s to be trained first, {steps} steps each"
            "\n"
        )
    tell: Any = partial(_tell, wanted, what) if show else _tell_nothing
    if run.ranks > 1:
        first, every = processes.local_rank(), processes.local_world_size()
        with processes.waiting_for_all():
            for number in range(first, len(wanted), every):
                if wanted[number].is_keepable(real):
                    wanted[number].obtain(run, real, folder, partial(tell, number))
    for number, each in enumerate(wanted):
        yield each.obtain(run, real, folder, partial(tell, number))
    if show:
        sys.stderr.write("\n")


def training_command(
    name: str, options: Iterable[tuple[str, object]], *, mirror: bool | None = None
) -> str:
    """Return a command line for training missing objects, quoted for a shell.

    Args:
        name: the command, such as ``"train-networks"``.
        options: names and values; a name may come several times.
        mirror: whether mirrored images keep their class; None to leave the option out.

    Example:
        >>> training_command("train-networks", [("network", "mlp")], mirror=False)
        'dd-plugins train-networks --network mlp --no-mirror'
    """
    words = ["dd-plugins", name]
    for option, value in options:
        words += [f"--{option}", str(value)]
    if mirror is not None:
        words.append("--mirror" if mirror else "--no-mirror")
    return shlex.join(words)


def _tell(wanted: Sequence[Wanted[Any]], what: str, number: int, done: int) -> None:
    """Show the progress of training."""
    steps = wanted[number].training_steps
    if done % _TOLD_EVERY == 0 or done == steps:
        sys.stderr.write(
            f"\r{what} {number + 1} of {len(wanted)}: {done:,} of {steps:,} "
            "training steps"
        )
        sys.stderr.flush()


def _tell_nothing(number: int, done: int) -> None:
    del number, done
