"""A stream that goes on, after the process was killed, as if it had not been."""

import hashlib
import io
import random
import re
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from avalanche.models.utils import avalanche_model_adaptation
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import PeriodicEval

from dd_avalanche.buffer import DistilledBuffer
from dd_plugins.api import FileError, OptionError, write_atomically

__all__ = ["STREAM_NAME", "restore_stream", "save_stream"]

STREAM_NAME = "stream.pt"
"""The file that holds where a stream stands; it loads without running code."""

_FORMAT_VERSION = 2  # from 2 on the file ends with a digest of itself
_DIGEST_SIZE = 64
# torch writes a zip archive, and that ends with the length of its comment: none. The
# digest of the file becomes the comment, so that torch.load still reads the file.
_NO_COMMENT = bytes(2)
_COMMENT = _DIGEST_SIZE.to_bytes(2, "little")
_PLAIN = (bool, int, float, str, type(None))
_BUFFER_NAME = re.compile(r"buffer-\d+-[0-9a-f]{8}")


def save_stream(
    folder: str | Path, strategy: Any, buffer: DistilledBuffer, experiences: int
) -> Path:
    """Write where a stream stands, after an experience; return the folder.

    The buffer goes to a folder of its own for each call; the model, the optimizer and
    the global generators follow in one file, which names that folder. So a kill at any
    moment leaves what was saved last. The state of a plugin is kept if the plugin has
    ``state_dict`` and ``load_state_dict``; those of Avalanche have not. Metrics are not
    kept.

    Args:
        folder: where.
        strategy: its model, optimizer and clock are saved.
        buffer: what it replays from.
        experiences: how many it has been trained on.

    Raises:
        OptionError: an online experience is not complete; or the state of a plugin
            holds more than tensors, numbers, strings and containers of them.
        FileError: a file cannot be written; what was saved before is kept.
    """
    if buffer.parts:
        raise OptionError(
            f"{buffer.parts} parts of an online experience wait for its last one; save "
            "the stream after that"
        )
    plugins = [[_name(each), _state(each)] for each in _stateful(strategy)]
    target = Path(folder)
    memory = target / f"buffer-{experiences}-{uuid4().hex[:8]}"
    buffer.save(memory)
    content = {
        "format_version": _FORMAT_VERSION,
        "experiences": experiences,
        "buffer": memory.name,
        "model": strategy.model.state_dict(),
        "optimizer": strategy.optimizer.state_dict(),
        "clock": vars(strategy.clock),
        "plugins": plugins,
        "others": _others(strategy, buffer),
        "randomness": _randomness(),
    }
    sealed = _sealed(content)
    write_atomically(target / STREAM_NAME, lambda file: file.write(sealed))
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

    It warns of plugins whose state is not restored: those without ``state_dict`` that
    hold more than numbers and strings, or other ones than when the stream was saved.

    Args:
        folder: where; if nothing was saved there, nothing changes.
        strategy: made as for the first run; its model is adapted to the experiences
            that are done, and its model, optimizer and the global generators are set.
        buffer: made as for the first run.
        stream: the experiences of the first run.

    Returns:
        How many experiences are done: go on with ``stream[done:]``.

    Raises:
        FileError: a file is damaged, or of an older version.
        OptionError: strategy or buffer are not those of the first run.
    """
    source = Path(folder)
    file = source / STREAM_NAME
    if not file.exists():
        return 0
    content = _load(file)
    experiences: int = content["experiences"]
    done = [
        experience for _, experience in zip(range(experiences), stream, strict=False)
    ]
    if len(done) < experiences:
        raise OptionError(
            f"of the stream in {source} {experiences} experiences are done; this one "
            f"has {len(done)}"
        )
    plugins = _stateful(strategy)
    held, own = [name for name, _ in content["plugins"]], list(map(_name, plugins))
    if held != own:
        raise OptionError(
            f"{source} holds the state of the plugins {', '.join(held) or 'none'}, the "
            f"strategy has {', '.join(own) or 'none'} with a state; make it as for the "
            "first run"
        )
    if done:
        filled = [each for each in done if len(each.dataset)] or done
        buffer.restore(source / content["buffer"], like=filled[0].dataset)
    for experience in done:
        avalanche_model_adaptation(strategy.model, experience)
    strategy.model.to(strategy.device)
    try:
        strategy.model.load_state_dict(content["model"])
        # Its first call gathers all parameters and forgets their moments: now, not
        # when training goes on.
        strategy.make_optimizer(reset_optimizer_state=True)
        strategy.optimizer.load_state_dict(content["optimizer"])
        for plugin, (_, state) in zip(plugins, content["plugins"], strict=True):
            plugin.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OptionError(
            f"{source} was saved with another model, optimizer or plugins: {reason}"
        ) from error
    vars(strategy.clock).update(content["clock"])
    _set_randomness(content["randomness"])
    lost = _lost(content["others"], _others(strategy, buffer))
    if lost:
        warnings.warn(
            f"the state of {', '.join(lost)} is not restored: plugins without "
            "state_dict and load_state_dict are not saved, and the stream may end "
            "otherwise than if it had not been stopped",
            stacklevel=2,
        )
    return experiences


def _name(plugin: Any) -> str:
    return type(plugin).__name__


def _stateful(strategy: Any) -> list[Any]:
    """Return the plugins that save their state and restore it."""
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
    except Exception as error:  # whatever a plugin gives
        raise OptionError(
            f"the state_dict of {_name(plugin)} cannot be saved "
            f"({type(error).__name__}); it may hold tensors, numbers, strings, lists "
            "and dicts of them"
        ) from error
    return state


def _others(strategy: Any, buffer: DistilledBuffer) -> list[list[Any]]:
    """Return names and options of the plugins whose state, if any, is not saved.

    Not among them are the clock, which is saved, and metrics. Options are the
    attributes but for the buffer; None if they are more than plain values.
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
    """Return the names of plugins that are not as they were when they were saved."""
    left = list(now)
    lost = []
    for each in before:
        if each[1] is not None and each in left:
            left.remove(each)
        else:
            lost.append(each[0])
    return list(dict.fromkeys(lost))


def _sealed(content: dict[str, Any]) -> bytes:
    """Return content as a file of torch that ends with its digest."""
    written = io.BytesIO()
    torch.save(content, written)
    plain = written.getvalue()
    assert plain.endswith(_NO_COMMENT)
    digest = hashlib.sha256(plain).hexdigest().encode()
    return plain.removesuffix(_NO_COMMENT) + _COMMENT + digest


def _load(file: Path) -> dict[str, Any]:
    """Return what was sealed in a file.

    Raises:
        FileError: it cannot be read, or is damaged, or was not sealed.
    """
    advice = f"remove {file.parent} to begin the stream anew"
    try:
        sealed = file.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {file}: {error.strerror}") from error
    plain, digest = sealed[:-_DIGEST_SIZE], sealed[-_DIGEST_SIZE:]
    plain = plain.removesuffix(_COMMENT) + _NO_COMMENT
    if hashlib.sha256(plain).hexdigest().encode() != digest:
        raise FileError(
            f"{file} is damaged, or of an older version without a digest; {advice}"
        )
    try:
        content: dict[str, Any] = torch.load(
            io.BytesIO(plain), map_location="cpu", weights_only=True
        )
        version = content["format_version"]
    except Exception as error:  # torch's own text advises to run what the file holds
        raise FileError(
            f"{file} is no saved stream ({type(error).__name__}); {advice}"
        ) from error
    if version != _FORMAT_VERSION:
        raise FileError(
            f"{file} has format version {version}, this dd_avalanche reads "
            f"{_FORMAT_VERSION}; upgrade dd-plugins, or {advice}"
        )
    return content


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
