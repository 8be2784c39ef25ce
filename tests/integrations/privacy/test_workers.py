"""Processes that make runs end with their audit."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from privacy_data import MLP, noisy_data

from dd_plugins.data import RealData
from dd_plugins.errors import RunError
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.mechanisms import AllMembers, Release
from dd_privacy.audit.runs import Runs

COMMAND = [
    *("audit", "frepo(pool_size=1)", "--dataset", "digits", "--members", "300"),
    *("--shadows", "4", "--steps", "8", "--training-steps", "5", "--network", MLP),
]


def test_killed_audit_leaves_no_process_behind(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = ["--steps", "2000", "--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dd_plugins", *COMMAND, *words],
        env={**os.environ, "DD_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and len(list(cache.rglob("run"))) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
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
    with pytest.raises(RunError, match=r"was killed, .* give the same words again"):
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


def test_a_stopped_audit_keeps_what_its_processes_have_done(tmp_path: Path) -> None:
    """The signal goes to the audit alone, as from a scheduler, not from a terminal."""
    cache = tmp_path / "cache"
    words = [*COMMAND, "--steps", "100000", "--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dd_plugins", *words],
        env={**os.environ, "DD_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and len(list(cache.rglob("metrics.jsonl"))) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert len(list(cache.rglob("checkpoint.pt"))) == 2
