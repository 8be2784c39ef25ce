"""Checkpoints: exact, and never taken if they are damaged or foreign."""

import copy
import io
import os
import pickle
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dd_plugins
from dd_plugins import DistilledSet, hookimpl
from dd_plugins.engine.checkpoint import (
    CHECKPOINT_NAME,
    CheckpointWriter,
    load_checkpoint,
    save_checkpoint,
)
from dd_plugins.errors import DDError, DDWarning, FileError, OptionError
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing import toy_data

CONTENT: dict[str, Any] = {
    "step": 3,
    "weights": torch.linspace(-1, 1, 200),
    "nested": {"list": [1, 2.5, "text", None, True], 0: {"state": torch.arange(4)}},
}


def same(one: Any, other: Any) -> bool:
    """Tell whether two contents are the same, bit for bit."""
    if isinstance(one, Tensor):
        return (
            isinstance(other, Tensor)
            and one.dtype == other.dtype
            and torch.equal(one, other)
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint") / CHECKPOINT_NAME
    save_checkpoint(path, CONTENT)
    return path.read_bytes()


def refused(path: Path) -> str:
    """Return the one line with which a checkpoint is refused."""
    with pytest.raises(FileError) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert text.isprintable(), f"not one printable line: {text!r}"
    assert str(path) in text
    assert "--overwrite" in text, "what to do"
    return text


def test_loading_gives_back_what_was_saved(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(good)
    assert same(load_checkpoint(path), CONTENT)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_whole(
    good: bytes, tmp_path: Path
) -> None:
    path, longer = tmp_path / CHECKPOINT_NAME, {**CONTENT, "more": torch.ones(999)}
    save_checkpoint(path, longer)
    for name, content in {"a": good, "b": path.read_bytes()}.items():
        (tmp_path / name).write_bytes(content)
    replacing = f"while :; do for n in a b; do ln -f $n c; mv c {path.name}; done; done"
    writer = subprocess.Popen(["sh", "-c", replacing], cwd=tmp_path)
    try:
        found = [load_checkpoint(path) for _ in range(1000)]
    finally:
        writer.kill()
        writer.wait()
    assert all(same(each, CONTENT) or same(each, longer) for each in found)


def test_a_checkpoint_cut_off_anywhere_is_refused(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    lengths = {0, 1, 4, len(good) - 22, len(good) - 1}
    for length in lengths | set(random.Random(0).sample(range(len(good)), 100)):
        path.write_bytes(good[:length])
        refused(path)


def test_a_bit_flipped_anywhere_is_found(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    draw = random.Random(0)
    ends = range(len(good) - 100, len(good))
    for place in [*draw.sample(range(len(good)), 1000), *ends]:
        damaged = bytearray(good)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        assert refused(path), place


def test_bytes_behind_the_end_are_refused(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(good + b"\0")
    refused(path)


class Touch:
    """An object that touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    save_checkpoint(path, {"configuration": Touch(tmp_path / "ran")})
    try:
        refused(path)
    finally:
        assert not (tmp_path / "ran").exists()


def zip_of(**records: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return buffer.getvalue()


def torch_file(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        bytes(1000),
        pickle.dumps({"step": 3}),
        zip_of(),
        zip_of(readme=b"hello"),
        torch_file({"step": 3}),
        torch_file({"step": 3}, _use_new_zipfile_serialization=False),
    ],
    ids=["empty", "text", "zeros", "pickle", "empty zip", "zip", "torch", "old torch"],
)
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(content)
    assert refused(path)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_missing_checkpoint_is_a_file_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    if kind == "folder":
        path.mkdir()
    with pytest.raises(FileError, match=CHECKPOINT_NAME):
        load_checkpoint(path)


OPTIONS: dict[str, Any] = {
    "distiller": "frepo(pool_size=2, real_batch_size=64)",
    "network": "mlp(width=4)",
    "device": "cpu",
    "steps": 3,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("finished")
    dd_plugins.distill(out=out, **OPTIONS)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def test_a_run_goes_on_from_its_checkpoint(run: Path) -> None:
    before = DistilledSet.load(run)
    again = dd_plugins.distill(out=run, resume=True, **OPTIONS)
    assert again.content_hash() == before.content_hash()


GONE = object()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("configuration", GONE),
        ("synthetic", GONE),
        ("synthetic", {"images": torch.zeros(3)}),
        ("state", 5),
        ("schedule", 5),
        ("step", GONE),
        ("configuration", "text"),
        ("state", {"pool": []}),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("step", "three"),
        ("step", 4000),
    ],
)
def test_resuming_from_wrong_content_is_refused_and_loses_nothing(
    name: str, value: Any, run: Path
) -> None:
    content = load_checkpoint(run / CHECKPOINT_NAME)
    content[name] = value
    if value is GONE:
        del content[name]
    refused_and_kept(run, content)


@pytest.mark.parametrize(
    "content",
    [{}, [1, 2], None, torch.zeros(3)],
    ids=str,
)
def test_resuming_from_foreign_content_is_refused_and_loses_nothing(
    content: Any, run: Path
) -> None:
    refused_and_kept(run, content)


def refused_and_kept(run: Path, content: Any) -> None:
    """Check that a run does not go on from that content, and its folder stays."""
    save_checkpoint(run / CHECKPOINT_NAME, content)
    files = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(FileError, match="--overwrite"):
        dd_plugins.distill(out=run, resume=True, **OPTIONS)
    assert {path: path.read_bytes() for path in run.iterdir()} == files


def test_file_errors_are_ours_and_value_errors() -> None:
    assert issubclass(FileError, DDError)
    assert issubclass(FileError, ValueError)
    assert FileError.exit_status == 1


def test_buffers_that_are_prepared_are_those_that_a_run_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: dict[Any, Tensor] = {}
    fresh: list[Any] = []

    class Watched(CheckpointWriter):
        def prepare(self, content: dict[str, Any]) -> None:
            super().prepare(content)
            prepared.update(self._buffers)

        def save(self, content: dict[str, Any]) -> None:
            super().save(content)
            fresh.extend(self._buffers.keys() - prepared.keys())

    monkeypatch.setattr("dd_plugins.engine.loop.CheckpointWriter", Watched)
    dd_plugins.distill(out=tmp_path / "run", **OPTIONS)
    assert any("pool" in place for place in prepared)
    assert not [place for place in fresh if "pool" in place], "memory was asked anew"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that was stopped after three."""
    out = tmp_path_factory.mktemp("stopped")

    class Stop:
        @hookimpl
        def dd_after_step(self, step: int) -> None:
            if step == 3:
                raise KeyboardInterrupt

    plugins = Plugins(load=[], extra={"stop": Stop()})
    with pytest.raises(KeyboardInterrupt):
        go_on(out, plugins=plugins)
    return out


def go_on(out: Path, **options: Any) -> DistilledSet:
    options = {"steps": 6, "network": "conv(width=4, depth=2)"} | options
    spec = "frepo(pool_size=1, real_batch_size=16)"
    return dd_plugins.distill(
        toy_data(), spec, out=out, device="cpu", resume=True, **options
    )


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Return nested content with another value in a place."""
    if not place:
        return new(value) if callable(new) else new
    changed = copy.copy(value)
    changed[place[0]] = put(value[place[0]], place[1:], new)
    return changed


def without(key: Any) -> Any:
    return lambda value: {name: each for name, each in value.items() if name != key}


def test_checkpoint_of_another_version_is_refused_in_a_line(stopped: Path) -> None:
    """Which of its options are named otherwise helps nobody."""
    path = stopped / "checkpoint.pt"
    good = path.read_bytes()
    try:
        saved = load_checkpoint(path)
        save_checkpoint(
            path, put(saved, ("configuration",), without("parametrization"))
        )
        with pytest.raises(OptionError, match=r"another version.*--overwrite"):
            go_on(stopped)
    finally:
        path.write_bytes(good)


NAN = float("nan")
WEIGHTS = ("state", "pool", 0, "network")
MOMENTS = ("optimizer", "state", 0)


@pytest.mark.parametrize(
    ("place", "new"),
    [
        (("seconds",), -1.0),
        (("seconds",), NAN),
        (("seconds",), "long"),
        (("step",), -1),
        (("step",), 7),
        (("step",), True),
        ((), without("schedule")),
        ((), lambda content: [content]),
        (("configuration",), ["seed"]),
        (("configuration", "seed"), torch.zeros(3)),
        (("synthetic", "images"), torch.zeros(1)),  # would be broadcast
        (("synthetic", "images", "images"), lambda images: images * NAN),
        (("synthetic", "labels"), lambda labels: labels.double()),
        (("state",), without("pool")),
        (("state", "pool"), {}),
        (WEIGHTS, without("head.bias")),
        ((*WEIGHTS, "head.bias"), torch.zeros(3)),
        ((*WEIGHTS, "head.bias"), torch.tensor([0.0, NAN])),
        (("state", "pool", 0, "updates"), -1),
        (("state", "pool", 0, "optimizer", "param_groups"), []),
        (MOMENTS, without("exp_avg")),
        (MOMENTS, {"step": 1}),
        ((*MOMENTS, "exp_avg_sq"), lambda moment: moment - 1),
        ((*MOMENTS, "exp_avg_sq"), torch.zeros(2)),
        ((*MOMENTS, "step"), -1),
        ((*MOMENTS, "step"), "many"),
        (("optimizer", "param_groups", 0), without("betas")),
        (("optimizer", "param_groups", 0, "lr"), NAN),
        (("schedule", "last_epoch"), "late"),
        (("schedule", "base_lrs"), []),
        (("transform", "stride"), 1.5),
        (("transform", "tensors", "mean"), torch.zeros(3)),
        (("transform", "tensors", "deviation"), torch.tensor([NAN])),
        (("place",), 5),
        (("place", "threads"), 0),
        (("place", "threads"), 10**9),
    ],
)
def test_forged_checkpoint_is_refused_in_a_line(
    stopped: Path, place: tuple[Any, ...], new: Any
) -> None:
    path = stopped / "checkpoint.pt"
    good = path.read_bytes()
    try:
        save_checkpoint(path, put(load_checkpoint(path), place, new))
        forged = path.read_bytes()
        with pytest.raises(FileError, match=r"foreign or damaged.*--overwrite") as told:
            go_on(stopped)
        assert str(told.value).isprintable()
        assert len(str(told.value)) < 500
        assert path.read_bytes() == forged
    finally:
        path.write_bytes(good)


def test_checkpoint_holds_what_its_run_depends_on(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = load_checkpoint(stopped / "checkpoint.pt")
    assert content["place"]["threads"] == torch.get_num_threads()
    before = torch.get_num_threads()
    whole = dd_plugins.distill(
        toy_data(),
        "frepo(pool_size=1, real_batch_size=16)",
        steps=6,
        network="conv(width=4, depth=2)",
        device="cpu",
    )
    moved = stopped.parent / "moved"
    shutil.copytree(stopped, moved)
    save_checkpoint(moved / "checkpoint.pt", put(content, ("place", "processes"), 2))
    with pytest.warns(DDWarning, match="elsewhere .processes was 2, is 1"):
        resumed = go_on(moved)
    assert torch.equal(whole.images, resumed.images)
    shutil.rmtree(moved)
    shutil.copytree(stopped, moved)
    with monkeypatch.context() as patch:
        patch.setattr("dd_plugins.data.draws.fits_in_memory", lambda size: False)
        with pytest.warns(
            DDWarning, match="images mapped by the batch was False, is T"
        ):
            go_on(moved)
    shutil.rmtree(moved)
    shutil.copytree(stopped, moved)
    torch.set_num_threads(before + 1)
    try:
        with pytest.warns(
            DDWarning, match=f"began with, {before} and not {before + 1}"
        ):
            resumed = go_on(moved)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert resumed.content_hash() == whole.content_hash()


def test_damaged_artifact_of_a_finished_run_is_written_again(stopped: Path) -> None:
    done = stopped.parent / "done"
    shutil.copytree(stopped, done)
    go_on(done)
    artifact = done / "distilled.safetensors"
    good = artifact.read_bytes()
    for damaged in (good[:1000], b"", good[:-8] + bytes(8)):
        artifact.write_bytes(damaged)
        with pytest.warns(DDWarning, match="written again from the last checkpoint"):
            go_on(done)
        assert artifact.read_bytes() == good
    with pytest.raises(OptionError, match=r"steps was 6, is 9; .*--refine-context"):
        go_on(done, steps=9)
    with pytest.raises(OptionError, match=r"seed was 0, is 1.*--resume$"):
        go_on(done, steps=9, seed=1)
