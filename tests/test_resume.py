"""A run that is killed and goes on ends as if it had not been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dd_plugins import DistilledSet
from dd_plugins.checkpoint import load_checkpoint, save_checkpoint

STEPS = 80
OPTIONS = ["--steps", str(STEPS), "--checkpoint-seconds", "0", "--ipc", "2"]
DISTILLER = ["--distiller", "frepo(pool_size=3, max_online_updates=4, flip=True)"]


def words(out: Path) -> list[str]:
    network = ["--network", "conv(width=8, depth=2)"]
    start = [sys.executable, "-m", "dd_plugins", "distill", "--out", str(out)]
    return [*start, *OPTIONS, *DISTILLER, *network]


def kill_after(seconds: float, command: list[str]) -> bool:
    """Start a command and kill it after some seconds; tell whether it was still on."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=-3)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    while not file.exists() and process.poll() is None:
        time.sleep(0.01)


def test_killed_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(words(whole), check=True, capture_output=True)

    # The first kill comes soon after the first checkpoint, wherever that is.
    process = subprocess.Popen(words(killed), stderr=subprocess.DEVNULL)
    wait_for(killed / "checkpoint.pt", process)
    moments = random.Random(0)
    time.sleep(0.5 * moments.random())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "distilled.safetensors").exists(), "killed too late"

    resume = [*words(killed), "--resume"]
    for _ in range(2):
        kill_after(3 + 4 * moments.random(), resume)
    done = subprocess.run(resume, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

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
            "dsa(real_batch_size=16)",
            "variant='feature_variance', stages=(2, 5), drawn=2, every=8, start=0",
            "dc_convnet(width=8, depth=2)",
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
    start = [sys.executable, "-m", "dd_plugins", "distill", "--steps", "24"]
    spec = f"metadd({base}, {AUXILIARY}, {options})"
    chosen = ["--distiller", spec, "--network", network]
    command = [*start, *chosen, "--checkpoint-seconds", "0", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], check=True, capture_output=True)

    process = subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL)
    wait_for(killed / "checkpoint.pt", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "distilled.safetensors").exists(), "killed too late"
    resume = [*command, str(killed), "--resume"]
    subprocess.run(resume, check=True, capture_output=True)
    first, second = DistilledSet.load(whole), DistilledSet.load(killed)
    assert first.content_hash() == second.content_hash()
    lines = map(json.loads, (whole / "metrics.jsonl").read_text().splitlines())
    ratios = [line["meta_ratio"] for line in lines if "meta_ratio" in line]
    assert len(ratios) == {"dm": 24, "ds": 3, "fr": 8}[base[:2]]
    assert all(0 <= ratio <= 1 for ratio in ratios)


TWENTY_KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import sklearn.datasets
import dd_plugins
from dd_plugins.checkpoint import load_checkpoint

STEPS = 300

def distil(out):
    dd_plugins.distill(
        "digits",
        "frepo(pool_size=3, max_online_updates=4, updates_per_batch=3, online_steps=2)",
        steps=STEPS, network="conv(width=8, depth=2)", out=out,
        resume=True, checkpoint_seconds=0,
    )

# Nothing was computed before the forks: threads are made in the children alone.
moments, out = random.Random(0), Path(sys.argv[1])
for kill in range(20):
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


def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", TWENTY_KILLS, str(killed), str(whole)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kills = [line.split() for line in done.stdout.splitlines()]
    assert [signalled for _, signalled in kills] == ["True"] * 20
    steps = [int(step) for step, _ in kills]
    assert steps == sorted(steps), "a kill lost a checkpoint"
    assert len(set(steps)) >= 10
    first, second = DistilledSet.load(whole), DistilledSet.load(killed)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)


@pytest.mark.parametrize("begun", [False, True])
def test_run_killed_before_its_first_checkpoint_starts_anew(
    tmp_path: Path, begun: bool
) -> None:
    out = tmp_path / "run"
    if begun:
        out.mkdir()
        (out / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    command = [*words(out), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "starting at step 0" in done.stderr
    assert len((out / "metrics.jsonl").read_text().splitlines()) == STEPS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_a_checkpoint_and_says_so(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [*words(tmp_path / "run"), "--checkpoint-seconds", "1000"]
    command[command.index("--steps") + 1] = "100000"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.05)
    time.sleep(1)
    os.kill(process.pid, number)
    _, printed = process.communicate()
    assert process.returncode == 130
    assert "--resume" in printed
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
    finished: Path, changed: list[str], named: str
) -> None:
    command = [*words(finished), "--steps", "8", *changed, "--resume"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert named in done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    subprocess.run([*words(out), "--steps", "8"], check=True, capture_output=True)
    return out


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = DistilledSet.load(finished)
    command = [*words(finished), "--steps", "8", "--resume"]
    subprocess.run(command, check=True, capture_output=True)
    assert DistilledSet.load(finished).content_hash() == before.content_hash()


def test_full_disk_keeps_the_previous_checkpoint_good(tmp_path: Path) -> None:
    out = tmp_path / "run"
    subprocess.run([*words(out), "--steps", "8"], check=True, capture_output=True)
    good = (out / "checkpoint.pt").read_bytes()
    # No file may grow beyond half a checkpoint: what a full disk does to a write.
    limited = (
        "import resource, sys; from dd_plugins.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(good) // 2},) * 2); "
        "main(sys.argv[1:])"
    )
    (out / "distilled.safetensors").unlink()
    command = [*words(out), "--steps", "8", "--resume"][3:]
    rewind(out / "checkpoint.pt", 5)
    before = (out / "checkpoint.pt").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", limited, *command], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "checkpoint.pt" in done.stderr
    assert "the previous one is kept" in done.stderr
    assert (out / "checkpoint.pt").read_bytes() == before
    assert list(out.glob(".*")) == []


def rewind(checkpoint: Path, step: int) -> None:
    """Pretend that a checkpoint was written earlier."""
    save_checkpoint(checkpoint, load_checkpoint(checkpoint) | {"step": step})


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "text"])
def test_damaged_checkpoint_is_refused_in_one_line(finished: Path, damage: str) -> None:
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
    command = [*words(finished), "--steps", "8", "--resume"]
    done = subprocess.run(command, capture_output=True, text=True)
    file.write_bytes(good)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "--overwrite" in done.stderr
