"""The command line, in a process of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import Command
from PIL import Image

from dd_plugins import DistilledSet
from dd_plugins.cli import main

SMALL = ["--steps", 3, "--network", "conv(width=4, depth=2)"]


def one_line(printed: str) -> str:
    """Return what was printed as an error: a single line, and no traceback."""
    (line,) = printed.strip().splitlines()
    assert line.startswith("Error: ")
    return line


class Ended(NamedTuple):
    status: int
    stderr: str


@pytest.fixture
def quick_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Run ``dd-plugins`` in this process: for long tables of wrong words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DD_DATA", raising=False)

    def run(*words: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, words)))
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, capsys.readouterr().err)

    return run


def test_distil_evaluate_show_info_export(
    command_line: Command, tmp_path: Path
) -> None:
    done = command_line("distill", "--out", "run", "--ipc", 2, *SMALL)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    written = {"distilled.safetensors", "checkpoint.pt", "metrics.jsonl"}
    assert {path.name for path in run.iterdir()} == written | {
        "images.png",
        "summary.json",
    }
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["images"]) == (3, 20)

    words = ["--repeats", 2, "--baselines", "--network", "mlp(width=8)"]
    done = command_line("evaluate", "run", *words, "--json", "figures.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    rows = [
        *found["networks"],
        found["baselines"]["random"],
        found["baselines"]["full"],
    ]
    for row in rows:
        assert row["spec"] == "mlp(width=8)"
        assert len(row["accuracies"]) == 2
        mean, (low, high) = row["accuracy_mean"], row["accuracy_ci95"]
        assert mean == pytest.approx(sum(row["accuracies"]) / 2)
        assert low <= mean <= high
        assert row["accuracy_std"] >= 0
    assert "all training images" in done.stdout

    words = ["--repeats", 1, "--protocol", "retrieval", "--network", "mlp(width=8)"]
    done = command_line("evaluate", "run", *words, "--json", "retrieval.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "retrieval.json").read_text())
    assert found["protocol"] == "retrieval"
    assert 0 < found["networks"][0]["retrieval"]["precision_at_1"]["mean"] <= 1
    assert "MAP@R" in done.stdout

    done = command_line("show", "run/distilled.safetensors", "--out", "grid.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size[0] > 100

    for word, value in (("--network", "mlp"), ("--device", "cpu")):
        refused = command_line("show", "run", word, value)
        assert refused.returncode == 2
        assert f"{word} goes with --features" in one_line(refused.stderr)

    header = json.loads(command_line("info", "run", "--json").stdout)
    assert header["distiller"].startswith("frepo(")
    assert header["dataset"]["name"] == "digits"
    assert "standardize" in command_line("info", "run").stdout

    for form in ("folder", "npz", "pt"):
        done = command_line("export", "run", "--to", form, "--out", f"exported.{form}")
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "exported.folder").rglob("*.png"))) == 20
    exported = torch.load(tmp_path / "exported.pt", weights_only=True)
    torch.testing.assert_close(exported["pixels"], DistilledSet.load(run).pixels())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--dataset", "digit"],
            "unknown data set 'digit'; known, nearest first: digits",
        ),
        (["--dataset", "cifar10"], "--data-root"),
        (["--dataset", "mnist", "--data-root", "nowhere"], "--download"),
        (["--dataset", "folder:nowhere"], "nowhere"),
        (["--dataset", "folder"], "folder:PATH"),
        (["--distiller", "freppo"], "known, nearest first: frepo"),
        (["--distiller", "frepo(pool_sise=3)"], "nearest first: pool_size"),
        (["--distiller", "frepo(pool_size=0)"], "greater than 0"),
        (["--distiller", "frepo(pool_size='3')"], "integer"),
        (["--distiller", "frepo(learning_rate=1e999)"], "finite"),
        (["--distiller", "frepo("], "never closed"),
        (["--distiller", "__import__('os')"], "unknown distiller"),
        (["--network", "con"], "unknown network 'con'; known, nearest first: conv"),
        (["--network", "conv(depth=9)"], "smaller depth"),
        (["--ipc", "0"], "--ipc"),
        (["--ipc", "1000"], "choose at most"),
        (["--steps", "0"], "--steps"),
        (["--device", "gpu"], "device"),
        (["--network", "conv(normalization=batch)"], "quote text ('batch')"),
        (["--distiller", "frepo(flip=true)"], "True, False or None"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--unknown"], "--unknown"),
    ],
)
def test_wrong_use_ends_with_one_clear_line(
    quick_command_line: Callable[..., Ended],
    words: list[str],
    told: str,
    tmp_path: Path,
) -> None:
    done = quick_command_line("distill", "--out", "run", *words)
    assert told in one_line(done.stderr)
    data_is_missing = "nowhere" in str(words)
    assert done.status == (1 if data_is_missing else 2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_neither_touched_nor_mixed(
    command_line: Command, tmp_path: Path
) -> None:
    assert command_line("distill", "--out", "run", *SMALL).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    done = command_line("distill", "--out", "run", "--seed", 1, *SMALL)
    assert done.returncode == 2
    assert "--resume" in one_line(done.stderr)
    assert "--overwrite" in one_line(done.stderr)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    done = command_line("distill", "--out", "run", "--seed", 1, "--overwrite", *SMALL)
    assert done.returncode == 0, done.stderr
    assert DistilledSet.read_header(tmp_path / "run").seed == 1


def test_overwrite_keeps_the_old_run_when_the_new_one_is_wrong(
    command_line: Command, quick_command_line: Callable[..., Ended], tmp_path: Path
) -> None:
    assert command_line("distill", "--out", "run", *SMALL).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for wrong in (
        ["--ipc", 1000],
        ["--dataset", "mnist"],
        ["--network", "conv(depth=9)"],
    ):
        done = quick_command_line("distill", "--out", "run", "--overwrite", *wrong)
        assert done.status == 2
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("command", ["evaluate", "show", "info"])
@pytest.mark.parametrize("content", [None, b"", b"text", b"\xff" * 1000])
def test_path_that_is_no_artifact_ends_with_one_clear_line(
    quick_command_line: Callable[..., Ended],
    tmp_path: Path,
    command: str,
    content: bytes | None,
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    done = quick_command_line(command, "file")
    assert done.status == 1
    assert "file" in one_line(done.stderr)


def test_debug_shows_the_traceback(command_line: Command) -> None:
    done = command_line("info", "nothing", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_plugins_are_listed(command_line: Command) -> None:
    listed = json.loads(command_line("plugins", "--all", "--json").stdout)
    by_name = {plugin["name"]: plugin for plugin in listed}
    assert by_name["built_in"]["offers"]["distiller"][:3] == ["frepo", "dsa", "dm"]
    assert "dd_after_step" in by_name["metrics_log"]["hooks"]
    assert by_name["privacy"]["distribution"] == "dd-plugins"
    only = command_line("plugins", "--json", DD_PLUGINS_LOAD="privacy")
    assert [plugin["name"] for plugin in json.loads(only.stdout)] == ["privacy"]
    none = command_line("plugins", "--json", DD_PLUGINS_LOAD="")
    assert json.loads(none.stdout) == []


def test_unknown_command_names_the_nearest(command_line: Command) -> None:
    done = command_line("distil")
    assert done.returncode == 2
    assert "unknown command 'distil'; known, nearest first: distill" in one_line(
        done.stderr
    )


def test_outputs_never_replace_what_belongs_to_a_run(
    command_line: Command, quick_command_line: Callable[..., Ended], tmp_path: Path
) -> None:
    assert command_line("distill", "--out", "run", *SMALL).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for words in (
        ["export", "run", "--to", "pt", "--out", "run/checkpoint.pt"],
        ["export", "run", "--to", "npz", "--out", "run/summary.json"],
        ["show", "run", "--out", "run/distilled.safetensors"],
        ["evaluate", "run", "--json", "run/metrics.jsonl"],
    ):
        assert quick_command_line(*words).status == 2
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_set_is_refined_on_a_wider_network(
    command_line: Command, tmp_path: Path
) -> None:
    done = command_line("distill", "--out", "narrow", *SMALL)
    assert done.returncode == 0, done.stderr
    wider = ["distill", "--steps", 3, "--network", "conv(width=8, depth=2)"]
    refused = command_line(*wider, "--context", "narrow", "--out", "wide")
    assert refused.returncode == 2
    assert "the context holds images of every class" in one_line(refused.stderr)
    refused = command_line(*wider, "--refine-context", "--out", "wide")
    assert "refine_context needs a context" in one_line(refused.stderr)
    missing = command_line(*wider, "--context", "nothing", "--out", "wide")
    assert "nothing" in one_line(missing.stderr)
    refine = [*wider, "--context", "narrow", "--refine-context", "--out", "wide"]
    done = command_line(*refine)
    assert done.returncode == 0, done.stderr
    narrow, wide = (DistilledSet.load(tmp_path / name) for name in ("narrow", "wide"))
    assert len(wide) == len(narrow) == 10
    distance = (wide.images - narrow.images).norm() / narrow.images.norm()
    assert 0 < distance < 0.2, "it begins as the narrow one's"
    told = " ".join(command_line("info", "wide", COLUMNS="400").stdout.split())
    assert "context 10 images by frepo" in told
    assert "learned further" in told
    assert "initial images those of the context" in told
    noise = command_line(*refine, "--overwrite", "--initial-images", "noise")
    assert "so that none begins as noise" in one_line(noise.stderr)
    assert DistilledSet.load(tmp_path / "wide").content_hash() == wide.content_hash()
    resumed = command_line(*wider, "--out", "wide", "--resume")
    assert "context was" in one_line(resumed.stderr)


def test_a_folder_that_changed_since_is_not_tested_on(
    command_line: Command, tmp_path: Path
) -> None:
    """A new file moves others between training and test: a leak."""
    for label, grey in (("dark", 40), ("light", 200)):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for number in range(10):
            image = Image.new("L", (8, 8), grey + number)
            image.save(folder / f"b{number}.png")
    words = ["distill", "--dataset", "folder:images", "--out", "run", *SMALL]
    assert command_line(*words).returncode == 0
    Image.new("L", (8, 8), 7).save(tmp_path / "images" / "dark" / "a.png")
    done = command_line("evaluate", "run", "--repeats", 1)
    assert done.returncode == 1
    assert "not those that the set was distilled from" in one_line(done.stderr)


def test_image_folder_is_distilled_and_evaluated(
    command_line: Command, tmp_path: Path
) -> None:
    for label, grey in (("dark", 40), ("light", 200)):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for number in range(10):
            size = (16 + number % 3, 16)
            Image.new("RGB", size, (grey, grey, 5 * number)).save(
                folder / f"{number}.png"
            )
    words = ["distill", "--dataset", "folder:images", "--out", "run", *SMALL]
    done = command_line(*words)
    assert done.returncode == 1
    assert "--image-size" in one_line(done.stderr)
    done = command_line(*words, "--image-size", 8)
    assert done.returncode == 0, done.stderr
    done = command_line("evaluate", "run", "--repeats", 1, "--json", "f.json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "f.json").read_text())["networks"]
    assert found["accuracy_mean"] == 1.0
    assert found["accuracy_ci95"] is None
