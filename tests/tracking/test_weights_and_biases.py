"""What wandb keeps of a run that is offline."""

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from dd_plugins import distill
from dd_plugins.errors import MissingExtraError
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing import check_observer_changes_nothing, toy_data
from dd_plugins.testing.toys import Interruption
from dd_plugins.tracking.weights_and_biases import WandB

QUICK: dict[str, Any] = {"network": "mlp(width=4)", "steps": 6, "device": "cpu"}
OFFLINE = "wandb(project='toys', title='first', mode='offline')"
_BLOCK, _HEAD = 32_768, 7  # bytes of the format of LevelDB's log


def records(file: Path) -> Iterator[Record]:
    """Yield what wandb has written to its file."""
    content, at, whole = file.read_bytes(), _HEAD, b""
    while at + _HEAD <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        at += _HEAD + length
        whole += content[at - length : at]
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def written(file: Path) -> list[Record]:
    """Return all that wandb has written, when its own process has written the end."""
    for _ in range(100):
        found = list(records(file))
        if any(each.HasField("exit") for each in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def test_it_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_observer_changes_nothing(WandB(mode="offline"))
    assert len(kept(tmp_path)) == 1, "a run without a folder is kept here"


def test_figures_settings_and_the_result_are_kept(tmp_path: Path) -> None:
    distill(toy_data(), "dm", out=tmp_path, observers=[OFFLINE], **QUICK)
    (file,) = kept(tmp_path)
    told = written(file)
    (run,) = [each.run for each in told if each.HasField("run")]
    assert (run.project, run.display_name) == ("toys", "first")
    settings = {
        update.key or update.nested_key[0]: json.loads(update.value_json)
        for each in told
        if each.HasField("config")
        for update in each.config.update
    }
    assert settings["dataset"] == "toy"
    assert settings["steps"] == 6
    figures = [
        {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in each.history.item
        }
        for each in told
        if each.HasField("history")
    ]
    assert [each["_step"] for each in figures] == list(range(1, 7))
    assert all("loss" in each for each in figures)
    assert figures[-1]["images.format"] == "png"
    assert len(list(file.parent.glob("files/media/images/*.png"))) == 1
    (exit_,) = [each.exit for each in told if each.HasField("exit")]
    assert exit_.exit_code == 0


def test_a_run_that_goes_on_is_the_same_run_there(tmp_path: Path) -> None:
    stop = Plugins(load=[], extra={"stop": Interruption(3)})
    options = {"out": tmp_path, "observers": OFFLINE, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        distill(toy_data(), "dm", plugins=stop, **options)
    (first,) = kept(tmp_path)
    (ended,) = [each.exit for each in written(first) if each.HasField("exit")]
    assert ended.exit_code == 1
    first.unlink()
    distill(toy_data(), "dm", resume=True, **options)
    assert [each.name for each in kept(tmp_path)] == [first.name]
    distill(toy_data(), "dm", overwrite=True, **options)
    assert len({each.name for each in kept(tmp_path)}) == 2


def test_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"'dd-plugins\[wandb\]'"):
        distill(toy_data(), "dm", out=tmp_path / "run", observers=OFFLINE, **QUICK)
    assert list(tmp_path.iterdir()) == []
