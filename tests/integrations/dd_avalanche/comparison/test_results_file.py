"""The JSON file of a comparison: several processes, kills, damage."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Command, Said, Started
from short_comparison import SHORT

from dd_avalanche.comparison.experiment import Experiment
from dd_avalanche.comparison.results import StreamResult
from dd_avalanche.comparison.results_file import ResultsFile
from dd_plugins.errors import OptionError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

STREAM = StreamResult(
    "random", "scratch", "none", "real", 0, 1, 4, 40, [[0.5]], 1.0, 2.0
)


def test_file_of_something_else_is_refused(
    command_line: Command, tmp_path: Path
) -> None:
    for text in ("{}", "not json", '{"experiment": {}, "streams": [{"a": 1}]}'):
        file = tmp_path / "c.json"
        file.write_text(text)
        done = command_line("continual", *SHORT, "--json", str(file), "--resume")
        (line,) = done.stderr.strip().splitlines()
        assert done.returncode in (1, 2)
        assert "a file of dd-plugins continual" in line or "holds no JSON" in line
        assert file.read_text() == text


QUICK = ["continual", *SHORT, "--seeds", "1", "--training-steps", "2"]


def test_altered_figures_and_other_files_are_refused(
    command_line: Command, in_process: Callable[..., Said], tmp_path: Path
) -> None:
    figures = tmp_path / "c.json"
    command = [*QUICK, "--policy", "random", "--json", str(figures)]
    assert command_line(*command).returncode == 0
    content = figures.read_text()
    kept = json.loads(content)
    older = {name: value for name, value in kept.items() if name != "content_hash"}
    first = kept["streams"][0]["accuracies"][0][0]
    for text, message in (
        (content.replace(f"{first}", f"{first + 0.001}", 1), "got damaged data"),
        (content.replace('"seed": 0', '"seed": 4', 1), "got damaged data"),
        (content.replace('"real"', '"reel"', 1), "got damaged data"),
        (content.replace('"results"', '"resolts"'), "got damaged data"),
        (content[:-9], "a file of dd-plugins continual"),
        (json.dumps(older), "expected a file with a hash, got one of an older"),
    ):
        assert text != content
        figures.write_text(text)
        done = in_process(*command, "--resume")
        (line,) = done.stderr.strip().splitlines()
        assert done.status == 1
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
        done = in_process(*command, *words)
        assert done.status == 2, done.stderr
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
    kept, same = ResultsFile(ours, path), ResultsFile(ours, path)
    kept.add(STREAM)
    same.add(replace(STREAM, seconds=9.0))  # both made it: the first stays
    same.add(replace(STREAM, seed=1))
    kept.write([])
    content = json.loads(path.read_text())
    assert [(s["seed"], s["seconds"]) for s in content["streams"]] == [(0, 2), (1, 2)]
    path.unlink()
    kept.write([])  # what it knows is written again
    assert len(json.loads(path.read_text())["streams"]) == 2
    ResultsFile(theirs, path, anew=True).add(STREAM)
    with pytest.raises(OptionError, match=r"of the same experiment, .* steps was 4"):
        kept.add(STREAM)
    assert json.loads(path.read_text())["experiment"]["steps"] == 4


def test_file_keeps_its_streams_until_there_is_one_to_replace_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.json"
    first = ResultsFile(Experiment(steps=3), path)
    assert not path.exists()
    first.add(STREAM)
    before = path.read_text()
    anew = ResultsFile(Experiment(steps=4), path, anew=True)
    assert path.read_text() == before
    for seed in (1, 2):
        anew.add(replace(STREAM, seed=seed))
    content = json.loads(path.read_text())
    assert [each["seed"] for each in content["streams"]] == [1, 2]


def test_impossible_experiment_leaves_the_old_file_alone(
    command_line: Command, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    ResultsFile(Experiment(), path).add(STREAM)
    before = path.read_text()
    impossible = ["--experiences", "3", "--json", str(path), "--overwrite"]
    done = command_line("continual", *SHORT, *impossible)
    assert done.returncode == 2
    assert "got 3 experiences for 10 classes" in done.stderr
    assert path.read_text() == before
