"""Save a stream, and resume it as if the process had not been killed."""

import io
import re
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from avalanche.models.utils import avalanche_model_adaptation
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import PeriodicEval

from dd_avalanche.replay.buffer import DistilledBuffer
from dd_avalanche.replay.layout import ExperienceContent, content_of
from dd_avalanche.replay.stream_file import (
    STREAM_NAME,
    random_state,
    read_stream,
    set_random_state,
    write_stream,
)
from dd_plugins.api import DDWarning, OptionError, one_line

__all__ = ["STREAM_NAME", "restore_stream", "save_stream"]

_PLAIN = (bool, int, float, str, type(None))
_BUFFER_NAME = re.compile(r"buffer-\d+-[0-9a-f]{8}")


def save_stream(
    folder: str | Path, strategy: Any, buffer: DistilledBuffer, experiences: int
) -> Path:
    """Save a stream after an experience; return the folder.

    Each call writes the buffer to a new folder; the model, the optimizer and the global
    generators follow in one file, with the folder's name. So a kill at any moment
    leaves the last save intact. The state of a plugin is saved if the plugin has
    ``state_dict`` and ``load_state_dict``; Avalanche's own have neither. Metrics are
    not saved.

    Args:
        folder: the folder of the saved stream.
        strategy: its model, optimizer and clock are saved.
        buffer: the replay buffer of the strategy.
        experiences: the number of finished experiences.

    Raises:
        OptionError: an online experience is not complete; or the state of a plugin
            holds more than tensors, numbers, strings and containers of them.
        FileError: a file cannot be written; the last save is kept.
    """
    if buffer.parts:
        raise OptionError(
            "a stream must be saved after the last part of an online experience, got "
            f"{buffer.parts} parts that wait for it"
        )
    plugins = [[_name(each), _state(each)] for each in _stateful(strategy)]
    target = Path(folder)
    memory = target / f"buffer-{experiences}-{uuid4().hex[:8]}"
    buffer.save(memory)
    content = {
        "experiences": experiences,
        "buffer": memory.name,
        "model": strategy.model.state_dict(),
        "optimizer": strategy.optimizer.state_dict(),
        "clock": vars(strategy.clock),
        "plugins": plugins,
        "others": _others(strategy, buffer),
        "taken": [list(each) for each in buffer.taken],
        "randomness": random_state(),
    }
    write_stream(target / STREAM_NAME, content)
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
    """Resume a stream saved by :func:`save_stream`.

    The classes and the number of images of each finished experience must be those of
    the first run. Plugins with unrestored state are named in a warning: those without
    ``state_dict``, if they hold more than numbers and strings, or differ from the saved
    ones.

    Args:
        folder: the folder of the saved stream; without a save, nothing changes.
        strategy: made as for the first run; its model is adapted to the finished
            experiences, and its model, optimizer and the global generators are set.
        buffer: made as for the first run.
        stream: the experiences of the first run.

    Returns:
        The number of finished experiences: continue with ``stream[done:]``.

    Raises:
        FileError: a file is damaged, or of an older version.
        OptionError: strategy, buffer or stream are not those of the first run.
    """
    source = Path(folder)
    file = source / STREAM_NAME
    if not file.exists():
        return 0
    content = read_stream(file)
    experiences: int = content["experiences"]
    done = [
        experience for _, experience in zip(range(experiences), stream, strict=False)
    ]
    if len(done) < experiences:
        raise OptionError(
            f"expected a stream of at least {experiences} experiences, which are done "
            f"in {source}, got {len(done)}"
        )
    # A file of an earlier version has no such record: its stream is not compared.
    taken = [ExperienceContent(*each) for each in content.get("taken", [])]
    _check_stream(source, taken, done)
    plugins = _stateful(strategy)
    held, own = [name for name, _ in content["plugins"]], list(map(_name, plugins))
    if held != own:
        raise OptionError(
            f"{source} holds the state of plugins: expected a strategy with "
            f"{', '.join(held) or 'none'}, got {', '.join(own) or 'none'}; make it as "
            "for the first run"
        )
    if done:
        filled = [each for each in done if len(each.dataset)] or done
        buffer.restore(source / content["buffer"], like=filled[0].dataset)
        buffer.taken = taken
    # A model may grow with each experience: it must see the finished experiences again
    # before the saved weights fit.
    for experience in done:
        avalanche_model_adaptation(strategy.model, experience)
    strategy.model.to(strategy.device)
    try:
        strategy.model.load_state_dict(content["model"])
        # The first call gathers all parameters and forgets their moments. It is made
        # now: made later, by training, it would forget the restored moments.
        strategy.make_optimizer(reset_optimizer_state=True)
        strategy.optimizer.load_state_dict(content["optimizer"])
        for plugin, (_, state) in zip(plugins, content["plugins"], strict=True):
            plugin.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = one_line(error)
        raise OptionError(
            f"expected the model, optimizer and plugins that {source} was saved with, "
            f"got others: {reason}"
        ) from error
    vars(strategy.clock).update(content["clock"])
    set_random_state(content["randomness"])
    lost = _lost(content["others"], _others(strategy, buffer))
    if lost:
        warnings.warn(
            f"the state of {', '.join(lost)} is not restored: plugins without "
            "state_dict and load_state_dict are not saved, and the stream may end "
            "differently from one that was not stopped",
            DDWarning,
            stacklevel=2,
        )
    return experiences


def _check_stream(
    source: Path, taken: list[ExperienceContent], done: list[Any]
) -> None:
    """Refuse a stream with other experiences than the buffer has taken.

    They are compared if the buffer took each of them once: it may have been filled by
    hand as well, or trained on an experience again.

    Raises:
        OptionError: an experience has other classes, or another number of images.
    """
    if len(taken) != len(done):
        return
    for number, (before, experience) in enumerate(zip(taken, done, strict=True)):
        now = content_of(experience.dataset)
        if now != before:
            raise OptionError(
                f"expected the stream of {source}, whose experience {number} has "
                f"{_described(before)}, got {_described(now)}; make it as for the "
                "first run, with the same seed"
            )


def _described(content: ExperienceContent) -> str:
    """Return the number of images and the first classes of an experience."""
    classes, count = content
    shown = ", ".join(map(str, classes[:10]))
    more = f" and {len(classes) - 10} others" if len(classes) > 10 else ""
    return f"{count} images of classes {shown}{more}"


def _name(plugin: Any) -> str:
    return type(plugin).__name__


def _stateful(strategy: Any) -> list[Any]:
    """Return the plugins with methods for saving and restoring state."""
    wanted = ("state_dict", "load_state_dict")
    return [
        each
        for each in strategy.plugins
        if all(callable(getattr(each, name, None)) for name in wanted)
    ]


def _state(plugin: Any) -> Any:
    """Return the state of a plugin, if it can be loaded again.

    Raises:
        OptionError: it holds more than plain values.
    """
    state = plugin.state_dict()
    written = io.BytesIO()
    try:
        torch.save(state, written)
        written.seek(0)
        torch.load(written, weights_only=True)
    except Exception as error:  # a plugin's state may be anything
        raise OptionError(
            f"the state_dict of {_name(plugin)} must hold only tensors, numbers, "
            "strings, and lists and dicts of them, got what cannot be saved "
            f"({type(error).__name__})"
        ) from error
    return state


def _others(strategy: Any, buffer: DistilledBuffer) -> list[list[Any]]:
    """Return names and options of the plugins without saved state.

    The clock (it is saved) and metrics are left out. Options are all attributes except
    the buffer; None if any of them is not a plain value.
    """
    known = (Clock, EvaluationPlugin, PeriodicEval)
    saved = {id(each) for each in _stateful(strategy)}
    found: list[list[Any]] = []
    for plugin in strategy.plugins:
        if isinstance(plugin, known) or id(plugin) in saved:
            continue
        held = {k: v for k, v in vars(plugin).items() if v is not buffer}
        plain = all(isinstance(value, _PLAIN) for value in held.values())
        found.append([_name(plugin), held if plain else None])
    return found


def _lost(before: list[list[Any]], now: list[list[Any]]) -> list[str]:
    """Return the names of saved plugins that equal no current one."""
    left = list(now)
    lost = []
    for each in before:
        if each[1] is not None and each in left:
            left.remove(each)
        else:
            lost.append(each[0])
    return list(dict.fromkeys(lost))
