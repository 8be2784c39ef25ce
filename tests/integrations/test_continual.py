"""``dd-plugins continual``: streams with a memory, compared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, Started, data_root

import dd_plugins
from dd_avalanche.command import _Kept
from dd_avalanche.continual import Experiment, Row, StreamResult, continual
from dd_plugins.errors import OptionError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

FREPO = "frepo(pool_size=1, real_batch_size=32)"
SHORT = [
    *("--benchmark", "split-digits", "--memory", "20", "--steps", "3"),
    *("--training-steps", "4", "--network", "conv(width=4, depth=2)"),
]


def test_command_compares_memories(command_line: Command, tmp_path: Path) -> None:
    figures, picture = tmp_path / "c.json", tmp_path / "c.png"
    done = command_line(
        *("continual", *SHORT, "--policy", f"{FREPO}, random", "--protocol", "both"),
        *("--seeds", "2", "--context", "none,fixed"),
        *("--json", str(figures), "--plot", str(picture)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
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
    lines = done.stderr.splitlines()
    assert all(line.startswith("Warning: 250 images of each class") for line in lines)
    assert 1 <= len(lines) == len(set(lines))


def test_stream_results_are_summed_up_right() -> None:
    accuracies = [[0.8], [0.5, 0.7], [0.6, 0.4, 0.2]]
    stream = StreamResult(
        "random", "scratch", "none", "real", 0, 1, 4, 40, accuracies, 1.0, 2.0
    )
    assert stream.curve == pytest.approx([0.8, 0.6, 0.4])
    # From 0.8 to 0.6, and from 0.7 to 0.4.
    assert stream.forgetting == pytest.approx(0.25)
    better = replace(stream, accuracies=[[0.5], [0.6, 0.5], [0.7, 0.6, 0.5]])
    assert better.forgetting == pytest.approx(-0.1), "what improves is no zero"
    row = Row((stream,)).as_dict()
    assert row["final_accuracy_mean"] == pytest.approx(0.4)
    assert row["final_accuracy_ci95"] is None
    assert row["average_incremental_accuracy_mean"] == pytest.approx(0.6)


def test_orders_are_those_that_the_papers_publish() -> None:
    from dd_avalanche.continual import _Stream

    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(benchmark="split-digits")
    stream = _Stream(experiment, data, data.read_test(), seed=1)
    # numpy.random.RandomState(1).permutation(10)
    assert stream.order == [[2, 9], [6, 4], [0, 3], [1, 7], [8, 5]]
    images, labels = stream.train(0)
    assert set(labels.tolist()) == {2, 9}
    # The space is that of the first experience: later classes were not looked at.
    assert float(images.mean()) == pytest.approx(0, abs=1e-4)
    later, _ = stream.train(1)
    assert abs(float(later.mean())) > 1e-3


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
        (["--experiences", "3"], "10 classes cannot be divided into 3 experiences"),
        (["--experiences", "10"], "of equally many classes, two or more"),
        (["--memory", "9"], "no room for 10 classes; make it 10 or larger"),
        (["--policy", "nothing"], "nothing"),
        (["--context", "some"], "--context must be of none, fixed, refined"),
        (["--store", "uint8,png"], "--store must be of float32, uint8, got 'png'"),
        (["--resume"], "--resume needs the file"),
        (["--initial-images", "dm", "--policy", "random"], "or a core set such as"),
        (["--plot", "/"], "cannot write /: it is a folder"),
        (["--plot", "/proc/x.png"], "cannot write"),
        (["--plot", "/dev/null/x.png"], "cannot write"),
        (["--json", "out", "--plot", "out"], "out is named for two outputs"),
        (["--json", "o", "--resume", "--overwrite"], "--overwrite does not: pass one"),
        (["--json", "/"], "cannot write /: it is a folder"),
        (["--benchmark", "split-mnist", "--data-root", "/nowhere"], "/nowhere"),
        (["--json", "/proc/no.json"], "cannot write"),
    ],
)
def test_wrong_input_is_one_clear_line(
    words: list[str], message: str, command_line: Command
) -> None:
    done = command_line("continual", *SHORT, *words)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert "Traceback" not in line


def test_file_of_something_else_is_refused(
    command_line: Command, tmp_path: Path
) -> None:
    for text in ("{}", "not json", '{"experiment": {}, "streams": [{"a": 1}]}'):
        file = tmp_path / "c.json"
        file.write_text(text)
        done = command_line("continual", *SHORT, "--json", str(file), "--resume")
        (line,) = done.stderr.strip().splitlines()
        assert done.returncode in (1, 2)
        assert "is not of this command" in line or "holds no JSON" in line
        assert file.read_text() == text


QUICK = ["continual", *SHORT, "--seeds", "1", "--training-steps", "2"]


def test_altered_figures_and_other_files_are_refused(
    command_line: Command, tmp_path: Path
) -> None:
    figures = tmp_path / "c.json"
    command = [*QUICK, "--policy", "random", "--json", str(figures)]
    assert command_line(*command).returncode == 0
    content = figures.read_text()
    kept = json.loads(content)
    older = {name: value for name, value in kept.items() if name != "content_hash"}
    first = kept["streams"][0]["accuracies"][0][0]
    for text, message in (
        (content.replace(f"{first}", f"{first + 0.001}", 1), "is damaged: its content"),
        (content.replace('"seed": 0', '"seed": 4', 1), "is damaged: its content"),
        (content.replace('"real"', '"reel"', 1), "is damaged: its content"),
        (content.replace('"results"', '"resolts"'), "is damaged: its content"),
        (content[:-9], "is not of this command"),
        (json.dumps(older), "has no hash: it is of an older version"),
    ):
        assert text != content
        figures.write_text(text)
        done = command_line(*command, "--resume")
        (line,) = done.stderr.strip().splitlines()
        assert done.returncode == 1
        assert message in line
        assert figures.read_text() == text
    begun = command_line(*command, "--overwrite")
    assert begun.returncode == 0, begun.stderr
    again = json.loads(figures.read_text())
    assert [each["accuracies"] for each in again["streams"]] == [
        each["accuracies"] for each in kept["streams"]
    ]
    picture = tmp_path / "notes.png"
    picture.write_text("my notes")
    for words in (
        ["--plot", str(picture), "--resume"],
        ["--plot", str(figures), "--resume"],
    ):
        done = command_line(*command, *words)
        assert done.returncode == 2, done.stderr
    assert picture.read_text() == "my notes"
    assert json.loads(figures.read_text()) == again


def test_two_comparisons_at_once_keep_the_streams_of_both(
    command_line: Command, tmp_path: Path
) -> None:
    command = [*QUICK, "--json", "c.json", "--resume"]
    policies = ["random", "herding(training_steps=0)", "kmeans(training_steps=0)"]
    others = [
        Started(*command, "--policy", policy, folder=tmp_path, OMP_NUM_THREADS="1")
        for policy in policies[:2]
    ]
    assert [each.finish().returncode for each in others] == [0, 0]
    # And one after the other; its own row of the bound is not there twice.
    done = command_line(*command, "--policy", policies[2], OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "c.json").read_text())
    for part in ("streams", "results"):
        found = sorted(each["policy"] for each in content[part])
        assert found == sorted([*policies, "joint"]), part


def test_file_that_another_process_replaced_is_not_written_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.json"
    ours, theirs = Experiment(steps=3), Experiment(steps=4)
    stream = StreamResult(
        "random", "scratch", "none", "real", 0, 1, 4, 40, [[0.5]], 1.0, 2.0
    )
    kept, same = _Kept(ours, path), _Kept(ours, path)
    kept.add(stream)
    same.add(replace(stream, seconds=9.0))  # both made it: the first stays
    same.add(replace(stream, seed=1))
    kept.write([])
    content = json.loads(path.read_text())
    assert [(s["seed"], s["seconds"]) for s in content["streams"]] == [(0, 2), (1, 2)]
    path.unlink()
    kept.write([])  # what it knows is written again
    assert len(json.loads(path.read_text())["streams"]) == 2
    _Kept(theirs, path, anew=True)
    with pytest.raises(OptionError, match="streams of another experiment: steps was 4"):
        kept.add(stream)
    assert json.loads(path.read_text())["experiment"]["steps"] == 4


@pytest.mark.parametrize("benchmark", ["split-fashion-mnist", "split-cifar10"])
def test_real_benchmark_runs(benchmark: str) -> None:
    name = benchmark.removeprefix("split-")
    data = dd_plugins.get_dataset(name, data_root=data_root(name))
    experiment = Experiment(
        benchmark,
        memory=10,
        steps=2,
        training_steps=3,
        network="conv(width=4, depth=2)",
    )
    rows = continual(experiment, ["turned(frepo(pool_size=1))"], data=data)
    assert [row.streams[0].store for row in rows] == ["float32", "uint8", "none"]
    first, second = (torch.tensor(row.streams[0].curve) for row in rows[:2])
    assert len(first) == len(second) == 5


def test_hundred_classes_are_divided_into_ten_experiences() -> None:
    """The shape of split CIFAR-100, of noise: its files are seldom at hand."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(800, 3, 8, 8, generator=generator)
    labels = torch.arange(800) % 100
    data = dd_plugins.RealData.from_tensors(
        images, labels, test=(images[:200], labels[:200]), preprocessing="standardize"
    )
    experiment = Experiment(
        "split-cifar100",
        experiences=10,
        memory=200,
        steps=1,
        training_steps=2,
        network="conv(width=2, depth=2)",
    )
    policies = ["dm(real_batch_size=8)", "random"]
    rows = continual(experiment, policies, stores=["uint8"], data=data)
    learned = rows[0].as_dict()
    assert learned["memory_images"] == 200
    assert len(learned["accuracy_per_experience"]) == 10


def test_images_may_be_whitened_by_the_first_experience() -> None:
    data = dd_plugins.get_dataset("digits")
    curves = []
    for whitening in ("none", "first"):
        experiment = Experiment(
            "split-digits", memory=50, training_steps=60, whitening=whitening
        )  # type: ignore[arg-type]
        rows = continual(experiment, ["random"], data=data)
        curves.append(rows[0].streams[0].curve)
    assert curves[0] != curves[1]
    assert all(curve[-1] is not None and curve[-1] > 0.2 for curve in curves)


def test_learned_images_may_be_stored_with_256_levels_alone() -> None:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment("split-digits", memory=10, steps=2, training_steps=2)
    policies = ["dm(real_batch_size=8)", "random"]
    rows = continual(experiment, policies, stores=["uint8"], data=data)
    assert [row.streams[0].store for row in rows] == ["uint8", "real", "real", "none"]
    learned, real, equal, _ = (row.as_dict() for row in rows)
    # 64 bytes an image, and two numbers that say where its levels lie.
    assert learned["memory_bytes"] == 10 * (64 + 2 * 4)
    assert equal["equal_bytes"]
    assert equal["final_accuracies"] == real["final_accuracies"]


def test_unknown_protocol_and_whitening_are_refused() -> None:
    data = dd_plugins.get_dataset("digits")
    with pytest.raises(OptionError, match="protocol must be one of replay, scratch"):
        continual(Experiment(), ["random"], protocols=["both"], data=data)  # type: ignore[list-item]
    with pytest.raises(OptionError, match="whitening must be one of none, first"):
        continual(Experiment(whitening="all"), ["random"], data=data)  # type: ignore[arg-type]
