"""A stream that goes on, after the process was killed, as if it had not been."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.models.utils import avalanche_model_adaptation

from dd_avalanche.buffer import DistilledBuffer
from dd_plugins.errors import FileError, OptionError
from dd_plugins.files import write_atomically

__all__ = ["STREAM_NAME", "restore_stream", "save_stream"]

STREAM_NAME = "stream.pt"
"""The file that holds where a stream stands; it loads without running code."""


def save_stream(
    folder: str | Path, strategy: Any, buffer: DistilledBuffer, experiences: int
) -> Path:
    """Write where a stream stands, after an experience; return the folder.

    The buffer goes to a folder of its own for each call; the model, the optimizer and
    the global generators follow in one file, which names that folder. So a kill at any
    moment leaves what was saved last. Metrics and plugins of Avalanche are not kept.

    Args:
        folder: where.
        strategy: its model and optimizer are saved.
        buffer: what it replays from.
        experiences: how many it has been trained on.

    Raises:
        FileError: a file cannot be written; what was saved before is kept.
    """
    target = Path(folder)
    memory = target / f"buffer-{experiences}"
    buffer.save(memory)
    content = {
        "experiences": experiences,
        "buffer": memory.name,
        "model": strategy.model.state_dict(),
        "optimizer": strategy.optimizer.state_dict(),
        "randomness": _randomness(),
    }
    write_atomically(target / STREAM_NAME, lambda file: torch.save(content, file))
    for old in target.glob("buffer-*"):
        if old != memory:
            for file in old.iterdir():
                file.unlink(missing_ok=True)
            old.rmdir()
    return target


def restore_stream(
    folder: str | Path,
    strategy: Any,
    buffer: DistilledBuffer,
    stream: Iterable[Any],
) -> int:
    """Take up a stream where :func:`save_stream` left it.

    Args:
        folder: where; if nothing was saved there, nothing changes.
        strategy: made as for the first run; its model is adapted to the experiences
            that are done, and its model, optimizer and the global generators are set.
        buffer: made as for the first run.
        stream: the experiences of the first run.

    Returns:
        How many experiences are done: go on with ``stream[done:]``.

    Raises:
        FileError: a file is damaged.
        OptionError: strategy or buffer are not those of the first run.
    """
    source = Path(folder)
    file = source / STREAM_NAME
    if not file.exists():
        return 0
    try:
        content = torch.load(file, weights_only=True)
        experiences = int(content["experiences"])
        memory = source / content["buffer"]
        model, optimizer = content["model"], content["optimizer"]
        randomness = content["randomness"]
    except Exception as error:  # what is read may be anything
        raise FileError(
            f"{file} is damaged ({type(error).__name__}); remove {source} to begin anew"
        ) from error
    for number, experience in zip(range(experiences), stream, strict=False):
        if number == 0:
            buffer.restore(memory, like=experience.dataset)
        avalanche_model_adaptation(strategy.model, experience)
    strategy.model.to(strategy.device)
    try:
        strategy.model.load_state_dict(model)
        # Its first call gathers all parameters and forgets their moments: now, not
        # when training goes on.
        strategy.make_optimizer(reset_optimizer_state=True)
        strategy.optimizer.load_state_dict(optimizer)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OptionError(
            f"{source} was saved with another model or optimizer: {reason}"
        ) from error
    strategy.clock.train_exp_counter = experiences
    _set_randomness(randomness)
    return experiences


def _randomness() -> dict[str, Any]:
    """Return the state of the global generators, in plain containers."""
    name, keys, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }


def _set_randomness(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
