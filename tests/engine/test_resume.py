"""A run that is killed and goes on ends as if it had not been."""

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import COMMAND_LINE, Command, Said, Started, run_code

from dd_plugins import DistilledSet
from dd_plugins.engine.checkpoint import load_checkpoint, save_checkpoint

STEPS = 60
OPTIONS = ["--steps", str(STEPS), "--ipc", "2"]
OFTEN = ["--checkpoint-seconds", "0"]
DISTILLER = ["--distiller", "frepo(pool_size=3, max_online_updates=4, flip=True)"]


def words(out: Path) -> list[str]:
    network = ["--network", "conv(width=8, depth=2)"]
    return ["distill", "--out", str(out), *OPTIONS, *DISTILLER, *network]


def run(*command: str, folder: Path) -> None:
    done = Started(*command, folder=folder).finish()
    assert done.returncode == 0, done.stderr


def kill_at_a_checkpoint(*command: str, out: Path, later: float = 0) -> None:
    """Run a command, and kill it some seconds after its first checkpoint."""
    started = Started(*command, folder=out.parent)
    while not (out / "checkpoint.pt").exists() and not started.ended(0.01):
        pass
    time.sleep(later)
    started.kill()
    assert not (out / "distilled.safetensors").exists(), "killed too late"


def test_killed_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(*words(whole), folder=tmp_path)

    moments = random.Random(0)
    later = 0.5 * moments.random()
    kill_at_a_checkpoint(*words(killed), *OFTEN, out=killed, later=later)
    resume = [*words(killed), *OFTEN, "--resume"]
    for _ in range(2):
        started = Started(*resume, folder=tmp_path)
        if not started.ended(1 + moments.random()):
            started.send(signal.SIGKILL)
        started.finish()
    run(*resume, folder=tmp_path)

    first, second = DistilledSet.load(whole), DistilledSet.load(killed)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.header == second.header
    lines = (killed / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, STEPS + 1))


AUXILIARY = "networks=(conv(width=4, depth=2), vgg11(width=4), alexnet(width=4))"
MIXED = "frepo(pool_size=3, max_online_updates=4, pool_networks=(mlp(width=4),))"


@pytest.mark.parametrize(
    ("base", "options", "network"),
    [
        (
            MIXED,
            "variant='real_features', stages=(2, 5), every=3, start=1",
            "conv(width=8, depth=2)",
        ),
        (
            "dm(real_batch_size=16)",
            "variant='paper', stages=(2,), every=1, start=0",
            "dc_convnet(width=8, depth=2)",
        ),
    ],
)
def test_killed_wrapped_run_ends_bit_for_bit_as_well(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    options: str,
    network: str,
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))
    spec = f"metadd({base}, {AUXILIARY}, {options})"
    chosen = ["--distiller", spec, "--network", network]
    command = ["distill", "--steps", "12", *chosen]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(*command, "--out", str(whole), folder=tmp_path)
    to_kill = [*command, "--out", str(killed)]
    kill_at_a_checkpoint(*to_kill, *OFTEN, out=killed)
    run(*to_kill, "--resume", folder=tmp_path)
    first, second = DistilledSet.load(whole), DistilledSet.load(killed)
    assert first.content_hash() == second.content_hash()
    lines = map(json.loads, (whole / "metrics.jsonl").read_text().splitlines())
    ratios = [line["meta_ratio"] for line in lines if "meta_ratio" in line]
    assert len(ratios) == {"dm": 12, "ds": 2, "fr": 4}[base[:2]]
    assert all(0 <= ratio <= 1 for ratio in ratios)


SIX_KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import dd_plugins
from dd_plugins.engine.checkpoint import load_checkpoint

STEPS = 50

def distil(out):
    dd_plugins.distill(
        "digits",
        "frepo(pool_size=3, max_online_updates=4, updates_per_batch=3, online_steps=2, "
        "augmented_copies=1)",
        steps=STEPS, network="conv(width=8, depth=2)", out=out,
        resume=True, checkpoint_seconds=0,
    )

# Nothing was computed before the forks: threads are made in the children alone.
moments, out = random.Random(0), Path(sys.argv[1])
for kill in range(6):
    child = os.fork()
    if child == 0:
        distil(out)
        os._exit(0)
    before = step = load_checkpoint(out / "checkpoint.pt")["step"] if kill else 0
    while kill % 2 == 0 and step < min(before + 1 + moments.randrange(12), STEPS):
        time.sleep(0.005)
        if (out / "checkpoint.pt").exists():
            step = load_checkpoint(out / "checkpoint.pt")["step"]
    time.sleep(0.2 * moments.random())
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    step = load_checkpoint(out / "checkpoint.pt")["step"]
    print(step, os.WIFSIGNALED(status), flush=True)
distil(out)
distil(Path(sys.argv[2]))
"""


def test_six_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = run_code(SIX_KILLS, killed, whole, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    kills = [line.split() for line in done.stdout.splitlines()]
    assert [signalled for _, signalled in kills] == ["True"] * 6
    steps = [int(step) for step, _ in kills]
    assert steps == sorted(steps), "a kill lost a checkpoint"
    assert len(set(steps)) >= 3
    first, second = DistilledSet.load(whole), DistilledSet.load(killed)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)


@pytest.mark.parametrize("begun", [False, True])
def test_run_killed_before_its_first_checkpoint_starts_anew(
    tmp_path: Path, begun: bool, command_line: Command
) -> None:
    out = tmp_path / "run"
    if begun:
        out.mkdir()
        (out / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    done = command_line(*words(out), "--steps", "8", "--resume")
    assert done.returncode == 0, done.stderr
    assert "starting at step 0" in done.stderr
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_a_checkpoint_and_says_so(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [*words(tmp_path / "run"), "--checkpoint-seconds", "1000"]
    command[command.index("--steps") + 1] = "100000"
    started = Started(*command, folder=tmp_path)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert not started.ended(0.05)
    time.sleep(0.5)
    started.send(number)
    done = started.finish()
    assert done.returncode == 130
    assert "to go on, run the same command with --resume" in done.stderr
    assert (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--seed", "1"], "seed was 0, is 1"),
        (["--ipc", "3"], "images per class was 2, is 3"),
        (["--steps", "9"], "steps was 8, is 9"),
        (["--distiller", "frepo(pool_size=4)"], "distiller was"),
        (["--network", "conv(width=4)"], "network was"),
    ],
)
def test_resume_refuses_other_options(
    finished: Path, changed: list[str], named: str, in_process: Callable[..., Said]
) -> None:
    done = in_process(*words(finished), "--steps", "8", *changed, "--resume")
    assert done.status == 2
    assert named in done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    run(*words(out), "--steps", "8", folder=out.parent)
    return out


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    artifact = finished / "distilled.safetensors"
    before, written = artifact.read_bytes(), artifact.stat().st_mtime_ns
    run(*words(finished), "--steps", "8", "--resume", folder=finished.parent)
    assert artifact.read_bytes() == before
    assert artifact.stat().st_mtime_ns == written
    artifact.unlink()
    run(*words(finished), "--steps", "8", "--resume", folder=finished.parent)
    assert artifact.read_bytes() == before


def test_full_disk_keeps_the_previous_checkpoint_good(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(*words(out), "--steps", "8", folder=tmp_path)
    good = (out / "checkpoint.pt").read_bytes()
    # No file may grow beyond half a checkpoint: what a full disk does to a write.
    limit = f"({len(good) // 2},) * 2"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, {limit})"
    (out / "distilled.safetensors").unlink()
    command = [*words(out), "--steps", "8", "--resume"]
    rewind(out / "checkpoint.pt", 5)
    before = (out / "checkpoint.pt").read_bytes()
    done = run_code(limited + COMMAND_LINE, *command, folder=tmp_path)
    assert done.returncode == 1
    assert "checkpoint.pt" in done.stderr
    assert "the previous one is kept" in done.stderr
    assert (out / "checkpoint.pt").read_bytes() == before
    assert list(out.glob(".*")) == []


def rewind(checkpoint: Path, step: int) -> None:
    """Pretend that a checkpoint was written earlier."""
    save_checkpoint(checkpoint, load_checkpoint(checkpoint) | {"step": step})


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "text"])
def test_damaged_checkpoint_is_refused_in_one_line(
    finished: Path, damage: str, in_process: Callable[..., Said]
) -> None:
    file = finished / "checkpoint.pt"
    good = file.read_bytes()
    content = bytearray(good)
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    elif damage == "text":
        content = bytearray(b"not a checkpoint")
    file.write_bytes(content)
    if damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, file)
    done = in_process(*words(finished), "--steps", "8", "--resume")
    file.write_bytes(good)
    assert done.status == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "--overwrite" in done.stderr
