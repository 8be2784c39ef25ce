"""``dd-plugins continual``: streams with a memory, compared."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Said, Started
from short_comparison import FREPO, SHORT

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)


def test_command_compares_memories(command_line: Command, tmp_path: Path) -> None:
    figures, picture = tmp_path / "c.json", tmp_path / "c.png"
    done = command_line(
        *("continual", *SHORT, "--policy", f"{FREPO}, random", "--protocol", "both"),
        *("--seeds", "2", "--context", "none,fixed"),
        *("--json", str(figures), "--plot", str(picture)),
    )
    assert done.returncode == 0, done.stderr
    *streams, last = done.stderr.splitlines()
    # A slow machine also says how far a stream is.
    told = re.compile(r"order [01]: ([01]\.\d+|\d+ %, .* left)$")
    other = [line for line in streams if not told.search(line)]
    assert other == []
    assert len(set(streams)) == len(streams), "each stream is told once"
    assert last == "streams: 100 %"
    assert "split-digits, 5 experiences, replay" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    content = json.loads(figures.read_text())
    rows = content["results"]
    found = [
        (row["protocol"], row["policy"].split("(")[0], row["context"], row["store"])
        for row in rows
    ]
    learned = [
        ("frepo", context, store)
        for context in ("none", "fixed")
        for store in ("float32", "uint8")
    ]
    real = [("random", "none", "real")] * 2
    bounds = [("naive", "none", "none"), ("joint", "none", "none")]
    assert found == [
        *[("replay", *row) for row in (*learned, *real, *bounds)],
        *[("scratch", *row) for row in (*learned, *real, bounds[1])],
    ]
    for row in rows:
        assert row["seeds"] == [0, 1]
        assert len(row["accuracy_per_experience"]) == 5
        low, high = row["final_accuracy_ci95"]
        assert low <= row["final_accuracy_mean"] <= high
        if row["policy"] == "joint":
            assert row["forgetting_mean"] is None
            assert row["final_accuracies"] == rows[-1]["final_accuracies"]
            continue
        assert 0 <= row["average_incremental_accuracy_mean"] <= 1
        assert -1 <= row["forgetting_mean"] <= 1
    exact, rounded = rows[:2]
    assert exact["memory_images"] == 20
    assert exact["memory_bytes"] == 20 * 4 * 64, "replay takes hard labels"
    assert rounded["memory_bytes"] == 20 * (64 + 2 * 4)
    exact_with_labels, rounded_with_labels = rows[8:10]
    assert exact_with_labels["memory_bytes"] == 20 * 4 * (64 + 10)
    assert rounded_with_labels["memory_bytes"] == 20 * (64 + 2 * 4 + 4 * 10)
    plain, equal = (row for row in rows[:7] if row["policy"] == "random")
    assert (plain["memory_images"], plain["memory_bytes"]) == (20, 20 * 64)
    assert equal["equal_bytes"] is True
    assert equal["memory_images"] == exact["memory_bytes"] // 640 * 10
    assert equal["memory_bytes"] <= exact["memory_bytes"]


def test_warnings_are_lines_without_code(command_line: Command) -> None:
    short = [word for word in SHORT if word not in ("--memory", "20")]
    done = command_line(
        *("continual", *short, "--memory", "2500", "--policy", "random"),
        *("--seeds", "1"),
    )
    assert done.returncode == 0, done.stderr
    lines = [each for each in done.stderr.splitlines() if "Warning" in each]
    assert all(line.startswith("Warning: 250 images of each class") for line in lines)
    assert 1 <= len(lines) == len(set(lines))


def test_killed_comparison_keeps_its_streams(
    tmp_path: Path, command_line: Command
) -> None:
    figures = tmp_path / "c.json"
    command = ["continual", *SHORT, "--json", "c.json"]
    command += ["--policy", "random, herding(training_steps=0)"]
    started = Started(*command, folder=tmp_path, OMP_NUM_THREADS="1")
    before: list[Any] = []
    while len(before) < 2 and not started.ended(0.02):
        if figures.exists():
            before = json.loads(figures.read_text())["streams"]
    started.kill()
    done = command_line(*command)
    assert done.returncode == 2
    assert "keep its streams with --resume" in done.stderr
    resumed = command_line(*command, "--resume", OMP_NUM_THREADS="1")
    assert resumed.returncode == 0, resumed.stderr
    content = json.loads(figures.read_text())
    assert content["streams"][: len(before)] == before
    assert len(content["streams"]) == 15
    refused = command_line(*command, "--resume", "--steps", "9")
    assert refused.returncode == 2
    assert "steps was 3, is 9" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--experiences", "3"], "got 3 experiences for 10 classes"),
        (["--experiences", "10"], "into equal parts of at least two, got 10"),
        (["--memory", "9"], "memory must be at least 10, an image of each"),
        (["--policy", "nothing"], "nothing"),
        (["--context", "some"], "--context must be one of none, fixed, refined"),
        (
            ["--store", "uint8,png"],
            "must be one of float32, uint8, packed, packed-uint8, got 'png'",
        ),
        (["--resume"], "--resume needs the file"),
        (["--initial-images", "dm", "--policy", "random"], "or a core set such as"),
        (["--policy", "dp_dm(epsilon=8)"], "because dp_dm is private, got 'herding"),
        (["--policy", "random, random"], "--policy must name each once, got random"),
        (["--context", "none,none"], "--context must name each once, got none"),
        (["--json", "/nonexist/x.json"], "needs a folder that exists, got /nonexist"),
        (["--plot", "/nonexist/x.png"], "needs a folder that exists, got /nonexist"),
        (["--plot", "/"], "cannot write /: it is a folder"),
        (["--plot", "/proc/x.png"], "cannot write"),
        (["--plot", "/dev/null/x.png"], "cannot write"),
        (["--json", "out", "--plot", "out"], "out is named for two outputs"),
        (
            ["--json", "o", "--resume", "--overwrite"],
            "expected --resume or --overwrite, got both",
        ),
        (["--json", "/"], "cannot write /: it is a folder"),
        (["--benchmark", "split-mnist", "--data-root", "/nowhere"], "/nowhere"),
        (["--json", "/proc/no.json"], "cannot write"),
    ],
)
def test_wrong_input_is_one_clear_line(
    words: list[str], message: str, in_process: Callable[..., Said]
) -> None:
    done = in_process("continual", *SHORT, *words)
    assert done.status in (1, 2)
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert "Traceback" not in line
