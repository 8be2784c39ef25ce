"""The folder of a run: what is replaced, when, and what is never touched."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import dd_plugins
from dd_plugins import hookimpl
from dd_plugins.engine.run_folder import RUN_FILES
from dd_plugins.errors import FileError, OptionError, RunError
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing import toy_data

SMALL: dict[str, Any] = {"network": "conv(width=4, depth=2)", "steps": 3}


def run(out: Path, distiller: Any = "dm", **options: Any) -> Any:
    return dd_plugins.distill(
        toy_data(validation=0), distiller, out=out, **(SMALL | options)
    )


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.is_dir()}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"network": "conv(depth=9)"}, OptionError),
        ({"distiller": "dm(learning_rate=1e300)"}, RunError),
        ({"distiller": "dsa(learning_rate=1e30)"}, RunError),
        ({"images_per_class": 500}, OptionError),
    ],
)
def test_old_run_stays_where_the_new_one_is_not_possible(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    run(tmp_path, seed=1)
    (tmp_path / "notes.txt").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(error):
        run(tmp_path, overwrite=True, **options)
    assert content(tmp_path) == before
    assert list(tmp_path.glob(".*")) == []


def test_old_run_is_gone_when_the_new_one_has_a_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, seed=1)
    there: list[bool] = []

    class Stop:
        @hookimpl
        def dd_after_step(self, step: int) -> None:
            there.append((tmp_path / ".replaced-run" / "checkpoint.pt").exists())
            raise KeyboardInterrupt

    plugins = Plugins(load=[], extra={"stop": Stop()})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, seed=2, overwrite=True, plugins=plugins)
    assert there == [True]
    assert list(tmp_path.glob(".*")) == []
    assert not (tmp_path / "distilled.safetensors").exists()
    whole = dd_plugins.distill(toy_data(validation=0), "dm", seed=2, **SMALL)
    resumed = run(tmp_path, seed=2, resume=True)
    assert torch.equal(whole.images, resumed.images)


@pytest.mark.parametrize("moment", ["rename", "touch", "step"])
def test_killed_replacement_is_undone_at_the_next_start(
    tmp_path: Path, moment: str
) -> None:
    run(tmp_path, seed=1)
    before = content(tmp_path)
    child = os.fork()
    if child == 0:  # killed within the replacement, where no handler helps
        try:
            _kill_at(moment)
            run(tmp_path, "random", overwrite=True, steps=2, checkpoint_seconds=99)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert content(tmp_path) != before
    with pytest.raises(OptionError, match="already holds a run"):
        run(tmp_path)
    with pytest.raises(OptionError, match="seed was 1, is 9"):
        run(tmp_path, seed=9, resume=True)
    assert content(tmp_path) == before
    assert list(tmp_path.glob(".*")) == []


def _kill_at(moment: str) -> None:
    from dd_plugins.engine.learning import Learning

    if moment == "step":
        Learning._one_step = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign, assignment, return-value]
        return
    original, left = getattr(Path, moment), [1]

    def killing(path: Path, *arguments: Any) -> Any:
        if ".replaced-run" not in str((path, *arguments)):
            return original(path, *arguments)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left.pop()
        if moment == "touch":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, *arguments)

    setattr(Path, moment, killing)


@pytest.mark.parametrize("how", ["resume", "overwrite"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("images.png", "mine"),
        ("summary.json", '{"accuracy": 0.5}'),
        ("metrics.jsonl", '{"epoch": 1}\n'),
        ("checkpoint.pt", "weights of something else"),
        ("distilled.safetensors", "of another tool"),
    ],
)
def test_files_that_no_run_has_made_are_kept(
    tmp_path: Path, how: str, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=f"{name}, which no run has made"):
        run(tmp_path, **{how: True})
    assert content(tmp_path) == {name: text.encode()}


def test_a_stranger_s_summary_beside_a_run_is_kept(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "summary.json").write_text('{"of": "the user"}')
    with pytest.raises(OptionError, match=r"summary.json, which no run has made"):
        run(tmp_path, overwrite=True)
    assert (tmp_path / "summary.json").read_text() == '{"of": "the user"}'


def test_a_damaged_run_can_be_replaced(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    (tmp_path / "distilled.safetensors").write_bytes(b"\0" * 10)
    run(tmp_path, overwrite=True)
    assert content(tmp_path).keys() == set(RUN_FILES) - {"summary.json"}


@pytest.mark.parametrize(
    "name", ["x" * 300, "nul\0", "/".join("d" * 2000), "file/below", "loop/run"]
)
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((OptionError, FileError)) as refused:
        run(tmp_path / name)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["checkpoint.pt", "distilled.safetensors"])
def test_a_folder_in_the_place_of_a_result_is_told_at_once(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(OptionError, match="must be a file, got a folder"):
        run(tmp_path)
