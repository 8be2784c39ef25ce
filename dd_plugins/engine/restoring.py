"""Resuming from a checkpoint, after checks of its content."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.whitening import COMPACT_TYPES
from dd_plugins.distillers.state import check_saved
from dd_plugins.errors import DDWarning, FileError, OptionError, described, what_differs
from dd_plugins.runtime.device import threads
from dd_plugins.runtime.randomness import seeded_globally
from dd_plugins.synthetic.leaves import Parameters

__all__ = [
    "LARGEST",
    "check_configuration",
    "checkpoint_errors",
    "largest",
    "rehearse",
    "saved_transform",
    "threads_of",
]

LARGEST = 1e6
"""The largest value of a set, in the value space, where channels have variance 1."""

_LONGEST_REASON = 200  # characters
_MOST_THREADS = 4096

Movers = tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]
"""An optimizer of a set, and its schedule."""


def largest(tensors: Iterable[Tensor]) -> Tensor:
    """Return the largest absolute value, 0-d; NaN if any value is NaN."""
    ends = [end for tensor in tensors for end in tensor.aminmax()]
    return torch.stack(ends).abs().amax()


def threads_of(saved: dict[str, Any] | None = None) -> AbstractContextManager[None]:
    """Return a context where a run has as many threads as at its start.

    Raises:
        FileError: the checkpoint is foreign or damaged.
    """
    own = torch.get_num_threads()
    with checkpoint_errors():
        place = {} if saved is None else dict(saved.get("place", {}))
        count = place.get("threads", own)
        if type(count) is not int or not 1 <= count <= _MOST_THREADS:
            raise ValueError(
                f"threads must be between 1 and {_MOST_THREADS}, got {count!r}"
            )
    if count != own:
        warnings.warn(
            f"this run goes on with the number of threads that it began with, {count} "
            f"and not {own}: so it ends with the same bits",
            DDWarning,
            stacklevel=3,
        )
    return threads(count)


def check_configuration(
    saved: Mapping[str, Any],
    configuration: Mapping[str, Any],
    steps: int,
    *,
    finished: bool = False,
) -> None:
    """Refuse a checkpoint of a run with other options, or of other code.

    Args:
        saved: the checkpoint.
        configuration: the configuration of the run; it must be the same.
        steps: the number of steps of the run.
        finished: whether nothing is left to be made: the run may then come from any
            version.

    Raises:
        OptionError: another run wrote the checkpoint.
        FileError: the checkpoint is foreign or damaged.
    """
    with checkpoint_errors():
        before = dict(saved["configuration"])
        for name, value in before.items():
            if not isinstance(value, str | int | float | None):
                raise ValueError(
                    f"{name}: expected text, a number or None, got "
                    f"{type(value).__name__}"
                )
        if finished:
            before, configuration = _unversioned(before), _unversioned(configuration)
        if set(_unversioned(before)) != set(_unversioned(configuration)):
            raise OptionError(
                "the checkpoint was written by another version of dd-plugins, whose "
                "runs have other options; going on needs that version: install it, or "
                "start anew with --overwrite"
            )
        differing = what_differs(before, configuration)
        if differing:
            advice = "repeat the command of the first run with --resume"
            if _unversioned(before) == _unversioned(configuration):
                advice = "install the version that began the run, or remove its folder"
            if before | {"steps": steps} == configuration:
                advice += (
                    "; to learn its set further, pass the run as --context with "
                    "--refine-context, and another --out"
                )
            raise OptionError(
                f"cannot resume with other options: {differing}; {advice}"
            )


def saved_transform(saved: Mapping[str, Any], image: Tensor) -> Transform | None:
    """Return the map to the value space in a checkpoint, if it holds one.

    Fitted again, by another number of threads, the map would differ in its last bits.

    Args:
        saved: the checkpoint.
        image: one real image, ``(1, channels, height, width)``.

    Raises:
        FileError: the checkpoint is foreign or damaged.
    """
    with checkpoint_errors():
        if "transform" not in saved:
            return None
        check_saved(saved["transform"]["stride"], 1, "transform.stride")
        transform = Transform.from_tensors(**saved["transform"])
        for name, tensor in transform.tensors().items():
            dtype = COMPACT_TYPES.get(name, torch.float32)
            like = torch.empty(tensor.shape, dtype=dtype)
            check_saved(tensor, like, f"transform.{name}")
        if transform.mean.shape != image.shape[1:2]:  # one value would be broadcast
            raise ValueError(
                f"the transform must have {image.shape[1]} channels, got "
                f"{tuple(transform.mean.shape)}"
            )
        shape = transform(image).shape
        if shape != image.shape:
            raise ValueError(
                f"the transform must keep the shape {tuple(image.shape)} of an image, "
                f"got {tuple(shape)}"
            )
        return transform


def _unversioned(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the versions of libraries and plugins."""
    return {
        name: value
        for name, value in configuration.items()
        if not name.endswith(" version")
    }


def rehearse(
    saved: Mapping[str, Any],
    parameters: Parameters,
    movers: Callable[[Parameters], Movers],
    generator: torch.Generator,
) -> None:
    """Make one step of the saved optimizer and schedule, on copies of the parameters.

    Only torch knows the form of their states. A wrong state fails here, or it still
    leaves the copies in the range of images.

    Raises:
        ValueError: a learning rate is not finite, or a value after the step is too
            large or not finite. Torch may raise other errors.
    """
    copies = parameters.map(torch.clone)
    with seeded_globally(generator):  # the global state stays
        optimizer, schedule = movers(copies)
        base_rates = getattr(schedule, "base_lrs", None)
        optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
        schedule.load_state_dict(copy.deepcopy(saved["schedule"]))
        check_saved(getattr(schedule, "base_lrs", None), base_rates, "base_lrs")
        for parameter in copies:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        schedule.step()
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if not all(map(math.isfinite, rates)):
        raise ValueError(f"learning rates must be finite, got {rates}")
    moved = float(largest(copies))
    if not moved <= LARGEST:
        raise ValueError(
            f"values after a step of the optimizer must be at most {LARGEST:g}, got "
            f"{moved:g}"
        )


@contextmanager
def checkpoint_errors() -> Iterator[None]:
    """Turn an error into a FileError about a foreign or damaged checkpoint.

    Raises:
        FileError: an error other than an OptionError or a MemoryError was raised.
    """
    try:
        yield
    except (OptionError, MemoryError):
        raise
    except Exception as error:  # what is restored may be anything
        reason = described(error)
        if len(reason) > _LONGEST_REASON:
            reason = f"{reason[:_LONGEST_REASON]}..."
        raise FileError(
            f"the checkpoint is foreign or damaged ({reason}); start anew "
            "with --overwrite"
        ) from error
