"""Files that are either whole or not there."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pytest
from conftest import run_code

from dd_plugins.errors import DDWarning, FileError
from dd_plugins.runtime import files
from dd_plugins.runtime.files import check_writable, folder_lock, write_atomically


def content(text: bytes) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(text)


def test_the_content_is_written_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "file"
    assert write_atomically(path, content(b"new")) == path
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_the_content_before_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a long old content")
    write_atomically(path, content(b"new"))
    assert path.read_bytes() == b"new"


def test_the_old_content_stands_while_the_new_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert seen == [b"old"]


def test_the_content_is_on_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    synced = []
    real_sync = os.fsync

    def sync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, path.read_bytes()))
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    write_atomically(path, content(b"newer"))
    assert synced[0] == (5, b"old")
    assert synced[1][1] == b"newer", "the folder, after the name was given"


@pytest.mark.parametrize("previous", [b"old", None])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("no such number"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failing_write_leaves_what_was_there_and_no_part(
    error: BaseException, previous: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if previous is not None:
        path.write_bytes(previous)

    def write(file: BinaryIO) -> None:
        file.write(b"half of the n")
        raise error

    expected = FileError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as raised:
        write_atomically(path, write)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == (
        [] if previous is None else [previous]
    )
    if expected is FileError:
        kept = "" if previous is None else "; the previous one is kept"
        assert str(raised.value) == f"cannot write {path}: {error.args[1]}{kept}"


def test_the_part_of_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "file"
    killed = (
        "import os, signal, sys; from pathlib import Path;"
        "from dd_plugins.runtime.files import write_atomically;"
        "write_atomically(Path(sys.argv[1]), lambda file: (file.write(b'half'),"
        " file.flush(), os.kill(os.getpid(), signal.SIGKILL)))"
    )
    path.write_bytes(b"old")
    done = run_code(killed, path, folder=tmp_path)
    assert done.returncode < 0
    assert path.read_bytes() == b"old"
    write_atomically(path, content(b"new"))
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"new"]


def test_of_two_writers_of_a_file_one_waits(tmp_path: Path) -> None:
    path = tmp_path / "file"
    other = (
        "import sys; from pathlib import Path;"
        "from dd_plugins.runtime.files import write_atomically;"
        "write_atomically(Path(sys.argv[1]), lambda file: ("
        " print('writes', flush=True), sys.stdin.read(), file.write(b'other')))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", other, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    with ThreadPoolExecutor() as pool:
        own = pool.submit(write_atomically, path, content(b"own"))
        with pytest.raises(TimeoutError):
            own.result(timeout=0.5)
        process.communicate()
        assert process.returncode == 0
        own.result(timeout=60)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"own"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from dd_plugins.engine.checkpoint import load_checkpoint, save_checkpoint
from dd_plugins.errors import FileError

path = Path(sys.argv[1])
save_checkpoint(path, {"step": 1, "weights": torch.ones(1000)})
# No file may grow beyond these bytes: writes fail as they do on a full disk.
try:
    for limit in (3000, 1, 0):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save_checkpoint(path, {"step": 2, "weights": torch.zeros(1000)})
        except FileError as error:
            assert "cannot write" in str(error), error
            assert "the previous one is kept" in str(error), error
        else:
            raise AssertionError("written in spite of the limit")
        content = load_checkpoint(path)
        assert content["step"] == 1
        assert torch.equal(content["weights"], torch.ones(1000))
        assert list(path.parent.iterdir()) == [path]
finally:  # else what went wrong could not be written either
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
save_checkpoint(path, {"step": 2})
assert load_checkpoint(path) == {"step": 2}
"""


def test_a_full_disk_keeps_the_previous_checkpoint_good(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.pt"
    done = run_code(FULL_DISK, path, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["folder", "below a file"])
def test_a_place_that_cannot_be_written_to_is_a_file_error(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "place"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"a file")
        path = path / "file"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileError, match=f"cannot write {path}: ") as raised:
        write_atomically(path, content(b"new"))
    assert "kept" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_too_long_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="too long"):
        write_atomically(tmp_path / ("n" * 300), content(b"new"))


def test_an_empty_path_is_a_file_error() -> None:
    with pytest.raises(FileError, match="cannot write"):
        write_atomically(Path(), content(b"new"))


def test_file_that_could_not_be_written_is_known_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deeper" / "a.json")
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileError, match="it is a folder"):
        check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot write .*a\.json"):
        check_writable(tmp_path / "file" / "a.json")
    for name in ("a" * 300, "a\0b"):
        with pytest.raises(FileError, match="cannot write"):
            check_writable(tmp_path / name)


def test_a_planted_hidden_name_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    part = tmp_path / "shared" / ".file.part"
    part.parent.mkdir()
    plants = {
        "link": lambda: part.symlink_to(precious),
        "link to nothing": lambda: part.symlink_to(tmp_path / "nowhere"),
        "second name": lambda: part.hardlink_to(precious),
        "pipe": lambda: os.mkfifo(part),
    }
    for what, plant in plants.items():
        precious.write_bytes(b"precious")
        plant()
        path = write_atomically(
            tmp_path / "shared" / "file", lambda file: file.write(b"written")
        )
        assert precious.read_bytes() == b"precious", what
        assert path.read_bytes() == b"written", what
        assert not path.is_symlink(), what
        assert not (tmp_path / "nowhere").exists(), what


def test_a_folder_that_only_says_it_can_be_written_to_is_refused() -> None:
    with pytest.raises(FileError, match="not a writable folder"):
        check_writable(Path("/proc/figures.json"))


def test_who_waits_for_a_folder_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_TOLD_AFTER", 0.2)
    monkeypatch.setattr(files, "_PATIENCE", 0.6)
    with ExitStack() as stack:
        stack.enter_context(folder_lock(tmp_path))
        told = stack.enter_context(
            pytest.warns(DDWarning, match="waiting for another process")
        )
        stack.enter_context(pytest.raises(FileError, match="is at work in"))
        stack.enter_context(folder_lock(tmp_path))
    assert len(told) == 1
