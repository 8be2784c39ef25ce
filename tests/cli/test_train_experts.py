"""The command that trains experts: killed and repeated, used, and given wrong words."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
from conftest import Command, Said, Started

from dd_plugins.runtime.kept_tensors import load_tensors

WORDS = ("train-experts", "--dataset", "digits", "--network", "mlp(width=8)")
SMALL = ("--steps", 30, "--every", 10)


def contents(folder: Path) -> dict[str, dict[str, str]]:
    """Return what each file holds: its description, and a hash over all of it."""
    found = {}
    for file in folder.iterdir():
        with safetensors.safe_open(file, framework="pt") as opened:
            found[file.name] = dict(opened.metadata())
        load_tensors(file, what="an expert", advice="")  # the hash is right
    return found


def test_a_killed_command_goes_on_to_the_same_files(
    command_line: Command, tmp_path: Path
) -> None:
    words = (*WORDS, "--experts", 3, "--steps", 60, "--every", 20)
    whole = command_line(*words, "--cache", "whole")
    assert whole.returncode == 0, whole.stderr
    lines = whole.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"expert {seed}, 4 snapshots" for seed in range(3)
    ]
    assert all(": trained, validation 0." in line for line in lines)
    killed = Started(*words, "--cache", "killed", folder=tmp_path)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("*.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.kill()
    assert len(list((tmp_path / "killed").glob("*.safetensors"))) < 3
    again = command_line(*words, "--cache", "killed")
    assert again.returncode == 0, again.stderr
    first, *_, last = again.stdout.splitlines()
    assert "expert 0, 4 snapshots: kept before" in first
    assert ": trained" in last
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_mtt_finds_the_experts_of_the_command(command_line: Command) -> None:
    words = ("--experts", 2, *SMALL, "--way-points", 2, "--cache", "kept")
    trained = command_line(*WORDS, *words)
    assert trained.returncode == 0, trained.stderr
    method = (
        "mtt(experts=2, snapshot_steps=10, way_points=2, student_steps=2, "
        "target_distance=2, difficulty=window(0, 1), missing_experts='refuse')"
    )
    words = ("--dataset", "digits", "--network", "mlp(width=8)", "--distiller", method)
    words = ("distill", *words, "--steps", 2, "--out", "run")
    found = command_line(*words, DD_CACHE="kept")
    assert found.returncode == 0, found.stderr
    other = command_line(*words, "--overwrite", DD_CACHE="other")
    assert other.returncode != 0
    line = other.stderr.strip().splitlines()[-1]
    assert "2 of 2 experts for digits are missing" in line
    said = line[line.index("train-experts") :].split(", with the data options")[0]
    told = shlex.split(said.split(", with the data options")[0])[1:]
    again = command_line("train-experts", *told, "--cache", "kept")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": kept before") == 2


def test_its_defaults_are_those_of_mtt(command_line: Command) -> None:
    assert command_line(*WORDS, "--cache", "kept").returncode == 0
    method = "mtt(missing_experts='refuse', student_steps=2)"
    words = ("--dataset", "digits", "--network", "mlp(width=8)", "--distiller", method)
    done = command_line("distill", *words, "--steps", 1, DD_CACHE="kept")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "vgg12"), "unknown network 'vgg12'"),
        (("--recipe", "adam"), "expected recipe, such as"),
        (("--recipe", "recipe(steps=3)", "--steps", 3), "--steps or --recipe"),
        (("--recipe", "recipe(3, optimizer=sgd)"), "quote text ('sgd')"),
        (("--steps", 5, "--every", 2, "--way-points", 9), "expected 2 to 3"),
        (("--network", "conv(depth=9)"), "needs sides of at least"),
    ],
)
def test_wrong_words_are_one_line(
    in_process: Callable[..., Said], words: tuple[str, ...], message: str
) -> None:
    done = in_process(*WORDS, "--cache", "kept", *words)
    assert done.status != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
