"""The command ``train-private``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Command, Said

import dd_plugins
from dd_plugins.errors import FileError
from dd_privacy.private.model import PrivateModel

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")


def test_command_trains_writes_and_says_what_is_not_covered(
    command_line: Command, tmp_path: Path
) -> None:
    words = ["train-private", "--dataset", "digits", "--epsilon", "8"]
    words += ["--epochs", "4", "--batch-size", "128", "--out", "m.safetensors"]
    words += ["--network", "conv(width=16, depth=2, normalization='group')"]
    done = command_line(*words, "--json", "m.json", "--test")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "training: 100 %\n"
    figures = json.loads((tmp_path / "m.json").read_text())
    assert 7.9 < figures["budget"]["epsilon"] <= 8
    assert figures["accuracy"] > 0.3
    assert figures["accuracy_on"] == "test"
    assert "The choice of hyper-parameters on the same data" in done.stdout
    model = PrivateModel.load(tmp_path / "m.safetensors")
    assert model.budget.epsilon == figures["budget"]["epsilon"]
    data = dd_plugins.get_dataset("digits")
    test = data.read_test()
    with torch.no_grad():
        right = model.network(model.transform(test.images[:])).argmax(1) == test.labels
    assert float(right.float().mean()) == pytest.approx(figures["accuracy"], abs=0.01)
    file = tmp_path / "m.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(FileError, match="expected a private model, got"):
        PrivateModel.load(file)
    refused = command_line(*words[:4], "-1", *words[5:])
    assert refused.returncode == 2
    assert "epsilon must be positive" in refused.stderr
    (tmp_path / "folder").mkdir()
    for option in ("--out", "--json"):
        lost = command_line(*words, option, "folder")
        assert lost.returncode == 1
        assert "cannot write folder: it is a folder" in lost.stderr
        assert "steps on" not in lost.stdout, "before anything is spent"


def test_diverged_training_writes_nothing(
    command_line: Command, tmp_path: Path
) -> None:
    words = ["train-private", "--dataset", "digits", "--epsilon", "8", "--epochs", "1"]
    words += ["--network", "mlp(width=4)", "--learning-rate", "1e38"]
    done = command_line(*words, "--out", "m.safetensors", "--json", "m.json")
    assert done.returncode == 1
    assert "is spent on these images" in done.stderr
    assert "model:" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--network", "nonsense"], 2, "unknown network 'nonsense'"),
        (["--network", "conv(depth=9)"], 2, "depth 9 halves the image 9 times"),
        (["--device", "nonsense"], 2, "such as 'cuda:1'; got 'nonsense'"),
        (["--delta", "0.5"], 2, "less than 1/1298 for 1298 images, got 0.5"),
        (["--json", "m"], 2, "m is named for two outputs"),
        (["--json", "./m"], 2, "m is named for two outputs"),
        (["--json", "notes.txt"], 2, "notes.txt exists, and holds no JSON"),
        (["--out", "notes.txt"], 2, "notes.txt exists, and holds what may not be"),
        (["--out", "distilled.safetensors", "--overwrite"], 2, "belongs to a run"),
    ],
)
def test_what_is_wrong_is_said_before_the_budget(
    words: list[str],
    status: int,
    message: str,
    in_process: Callable[..., Said],
    tmp_path: Path,
) -> None:
    for name in ("notes.txt", "distilled.safetensors"):
        (tmp_path / name).write_text("mine")
    done = in_process(
        *("train-private", "--dataset", "digits", "--epsilon", "8", "--out", "m"),
        *("--network", "mlp(width=4)", *words),
    )
    assert (done.status, done.stdout) == (status, "")
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "m").exists()


def test_a_model_is_replaced_where_that_is_asked_for(
    command_line: Command, tmp_path: Path
) -> None:
    (tmp_path / "[red]m").write_text("older")
    words = ["train-private", "--dataset", "digits", "--epsilon", "8", "--epochs", "1"]
    words += ["--network", "mlp(width=4)", "--out", "[red]m", "--overwrite"]
    done = command_line(*words)
    assert done.returncode == 0, done.stderr
    assert PrivateModel.load(tmp_path / "[red]m").budget.epsilon <= 8
    assert "model: [red]m" in done.stdout, "a name is no markup"
