"""A stream that goes on, after the process was killed, as if it had not been."""

import random
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from avalanche.models.utils import avalanche_model_adaptation

from dd_avalanche.buffer import DistilledBuffer
from dd_avalanche.strategy import StatefulPlugin
from dd_plugins.errors import FileError, OptionError
from dd_plugins.files import write_atomically

__all__ = ["STREAM_NAME", "restore_stream", "save_stream"]

STREAM_NAME = "stream.pt"
"""The file that holds where a stream stands; it loads without running code."""

_BUFFER_NAME = re.compile(r"buffer-\d+-[0-9a-f]{8}")


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
        OptionError: an online experience is not complete.
        FileError: a file cannot be written; what was saved before is kept.
    """
    if buffer.parts:
        raise OptionError(
            f"{buffer.parts} parts of an online experience wait for its last one; save "
            "the stream after that"
        )
    target = Path(folder)
    memory = target / f"buffer-{experiences}-{uuid4().hex[:8]}"
    buffer.save(memory)
    content = {
        "experiences": experiences,
        "buffer": memory.name,
        "model": strategy.model.state_dict(),
        "optimizer": strategy.optimizer.state_dict(),
        "clock": vars(strategy.clock),
        "plugins": [plugin.state_dict() for plugin in _stateful(strategy)],
        "randomness": _randomness(),
    }
    write_atomically(target / STREAM_NAME, lambda file: torch.save(content, file))
    for other in target.iterdir():  # saved before, or left by a kill
        if other != memory and _BUFFER_NAME.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)
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
        content = torch.load(file, map_location="cpu", weights_only=True)
        experiences = int(content["experiences"])
        memory = source / content["buffer"]
        model, optimizer = content["model"], content["optimizer"]
        plugins, randomness = content["plugins"], content["randomness"]
        clock = dict(content["clock"])
    except OSError as error:
        raise FileError(f"cannot read {file}: {error.strerror}") from error
    except Exception as error:  # what is read may be anything
        raise FileError(
            f"{file} is damaged ({type(error).__name__}); remove {source} to begin anew"
        ) from error
    done = [
        experience for _, experience in zip(range(experiences), stream, strict=False)
    ]
    if len(done) < experiences:
        raise OptionError(
            f"of the stream in {source} {experiences} experiences are done; this one "
            f"has {len(done)}"
        )
    if done:
        buffer.restore(memory, like=done[0].dataset)
    for experience in done:
        avalanche_model_adaptation(strategy.model, experience)
    strategy.model.to(strategy.device)
    try:
        strategy.model.load_state_dict(model)
        # Its first call gathers all parameters and forgets their moments: now, not
        # when training goes on.
        strategy.make_optimizer(reset_optimizer_state=True)
        strategy.optimizer.load_state_dict(optimizer)
        for plugin, state in zip(_stateful(strategy), plugins, strict=True):
            plugin.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OptionError(
            f"{source} was saved with another model, optimizer or plugins: {reason}"
        ) from error
    vars(strategy.clock).update(clock)
    _set_randomness(randomness)
    return experiences


def _stateful(strategy: Any) -> list[StatefulPlugin]:
    """Return the plugins of this package that have a state of their own."""
    return [each for each in strategy.plugins if isinstance(each, StatefulPlugin)]


def _randomness() -> dict[str, Any]:
    """Return the state of the global generators, in plain containers."""
    name, keys, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }


def _set_randomness(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
