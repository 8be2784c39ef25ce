"""Processes that make runs end with their audit."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COMMAND_LINE, Started
from privacy_data import MLP, noisy_data

from dd_plugins.data.real import RealData
from dd_plugins.errors import FileError, RunError
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.mechanisms import AllMembers, Release
from dd_privacy.audit.runs import Runs
from dd_privacy.audit.workers import run_in_parallel, threads_of_a_worker

COMMAND = [
    *("audit", "frepo(pool_size=1)", "--dataset", "digits", "--members", "300"),
    *("--shadows", "4", "--steps", "8", "--training-steps", "5", "--network", MLP),
]


GROUP = "import os; os.setsid()" + COMMAND_LINE


def test_killed_audit_leaves_no_process_behind(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = ["--steps", "2000", "--processes", "2"]
    process = Started(
        *COMMAND, *words, folder=tmp_path, code=GROUP, DD_CACHE=str(cache)
    )
    while len(list(cache.rglob("run"))) < 2:
        assert not process.ended(0.05)
    process.kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("its processes went on")


def test_a_killed_process_of_an_audit_is_told_of(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(300), members=120, targets=3)
    with pytest.raises(RunError, match=r"was killed, .* repeat the command"):
        audit_runs(
            Runs(membership, tmp_path),
            [Killed("killed", "cpu", MLP, 2)],
            ["loss"],
            processes=2,
        )


@dataclass(frozen=True)
class Killed(AllMembers):
    """Is killed at work, as by a kernel that has no memory left."""

    def run(self, data: RealData, seed: int, folder: Path | None = None) -> Release:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


# What a shell starts in the background ignores the signal.
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + GROUP
)


def test_a_stopped_audit_keeps_what_its_processes_have_done(tmp_path: Path) -> None:
    """The signal goes to the audit alone, as from a scheduler, not from a terminal."""
    cache = tmp_path / "cache"
    words = [*COMMAND, "--steps", "100000", "--processes", "2"]
    process = Started(*words, folder=tmp_path, code=INTERRUPTIBLE, DD_CACHE=str(cache))
    while distillations_begun(cache) < 2:
        assert not process.ended(0.05), process.finish().stderr
    process.send(signal.SIGINT)
    done = process.finish()
    assert done.returncode == 130, done.stderr
    assert len(list(cache.rglob("checkpoint.pt"))) == 2


def distillations_begun(cache: Path) -> int:
    """Return how many have made a step: a signal before it leaves no checkpoint."""
    return sum(path.stat().st_size > 0 for path in cache.rglob("metrics.jsonl"))


def own_process(mechanism: Any, run: int) -> Path:
    """Return the process and the threads that a run would be made with."""
    return Path(f"{mechanism}-{run}/{os.getpid()}/{torch.get_num_threads()}")


def test_each_job_is_made_once_in_another_process() -> None:
    jobs: Any = [("a", 0), ("a", 1), ("b", 0)]
    found = dict(run_in_parallel(own_process, jobs, 2))
    assert set(found) == set(jobs)
    for (mechanism, run), path in found.items():
        name, process, threads = path.parts
        assert name == f"{mechanism}-{run}"
        assert int(process) != os.getpid()
        assert int(threads) == max(1, torch.get_num_threads() // 2)


def cache_of_process(mechanism: Any, run: int) -> Path:
    """Return the folder for networks by the environment of the process."""
    return Path(os.environ["DD_CACHE"])


def test_each_audit_has_the_environment_of_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs: Any = [("all", 0)]
    for folder in ("one", "other"):
        monkeypatch.setenv("DD_CACHE", folder)
        ((_, found),) = run_in_parallel(cache_of_process, jobs, 1)
        assert found == Path(folder)


def fails(mechanism: Any, run: int) -> Path:
    raise FileError(f"{mechanism} of run {run} cannot be written")


def test_an_error_of_a_run_is_the_error_of_the_audit() -> None:
    with pytest.raises(FileError, match="all of run 0 cannot be written"):
        list(run_in_parallel(fails, [("all", 0)], 1))  # type: ignore[list-item]


def interrupted(processes: int, threads: int) -> None:
    with threads_of_a_worker(processes):
        assert torch.get_num_threads() == threads
        raise InterruptedError


@pytest.mark.parametrize(("processes", "threads"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_threads_are_shared_and_given_back(processes: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with pytest.raises(InterruptedError):
            interrupted(processes, threads)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
