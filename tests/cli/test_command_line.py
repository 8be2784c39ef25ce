"""The command line, in a process of its own."""

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import BRIEFLY, Command, Said
from PIL import Image

from dd_plugins import DistilledSet, distill
from dd_plugins.errors import FileError

SMALL = ["--steps", 3, "--network", "conv(width=4, depth=2)"]
QUICK = ["--protocol", "recipe(steps=20)"]


def one_line(printed: str) -> str:
    """Return what was printed as an error: a single line, and no traceback."""
    (line,) = printed.strip().splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def quick_command_line(
    in_process: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """Run ``dd-plugins`` in this process: for long tables of wrong words."""
    monkeypatch.delenv("DD_DATA", raising=False)
    return in_process


def test_distil_evaluate_show_info_export(
    command_line: Command, quick_command_line: Callable[..., Said], tmp_path: Path
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

    words = ["--repeats", 2, "--baselines", "--network", "mlp(width=8)", *QUICK]
    briefly = {"code": BRIEFLY}
    done = command_line("evaluate", "run", *words, "--json", "figures.json", **briefly)
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
    words += ["--json", "retrieval.json"]
    done = command_line("evaluate", "run", *words, **briefly)
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
        refused = quick_command_line("show", "run", word, value)
        assert refused.status == 2
        assert f"{word} needs --features" in one_line(refused.stderr)

    header = json.loads(command_line("info", "run", "--json").stdout)
    assert header["distiller"].startswith("frepo(")
    assert header["dataset"]["name"] == "digits"
    assert "standardize" in quick_command_line("info", "run").stdout

    for form in ("folder", "npz", "pt"):
        words = ["export", "run", "--to", form, "--out", f"as-{form}.{form}"]
        assert quick_command_line(*words).status == 0
    assert len(list((tmp_path / "as-folder.folder").rglob("*.png"))) == 20
    exported = torch.load(tmp_path / "as-pt.pt", weights_only=True)
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
        (["--distiller", "frepo(pool_size='3')"], "whole number"),
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
        (["--resume", "--overwrite"], "expected either resume or overwrite, got both"),
        (["--unknown"], "--unknown"),
    ],
)
def test_wrong_use_ends_with_one_clear_line(
    quick_command_line: Callable[..., Said],
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
    command_line: Command, quick_command_line: Callable[..., Said], tmp_path: Path
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
    quick_command_line: Callable[..., Said],
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
    assert by_name["built_in"]["offers"]["distiller"][:2] == ["frepo", "kip"]
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
    command_line: Command, quick_command_line: Callable[..., Said], tmp_path: Path
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
    assert "the context must leave out at least one class" in one_line(refused.stderr)
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
    assert "of which the context holds no images" in one_line(noise.stderr)
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
    done = command_line("evaluate", "run", "--repeats", 1, *QUICK)
    assert done.returncode == 1
    assert "must be those that the set was distilled from" in one_line(done.stderr)


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
    assert done.returncode == 2
    assert "--image-size" in one_line(done.stderr)
    done = command_line(*words, "--image-size", 8)
    assert done.returncode == 0, done.stderr
    done = command_line("evaluate", "run", "--repeats", 1, *QUICK, "--json", "f.json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "f.json").read_text())["networks"]
    assert found["accuracy_mean"] == 1.0
    assert found["accuracy_ci95"] is None


Quick = Callable[..., Said]


@pytest.fixture
def untrained(in_process: Quick, monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Run ``dd-plugins`` in this process; evaluations leave networks as they are."""
    monkeypatch.setattr(
        "dd_plugins.evaluation.jobs.train_network",
        lambda module, *_, **__: module,
    )
    return in_process


@pytest.fixture(scope="module")
def digits() -> DistilledSet:
    return distill("digits", "random", steps=1, network="mlp(width=2)")


NAMES = [
    "x[/y]",
    "[red]z",
    "[link=javascript:alert(1)]x",
    "$5$ :smile: 100%",
    "\x1b[2J\x1b]0;title\x07",
    "two\nlines",
    "right\u202eleft",
    "back\\",
    "<b>&amp;</b>",
]


def shown(name: str) -> str:
    """Return how a name is to be seen: printable, and else as it is."""
    escapes = {"\x1b": r"\x1b", "\x07": r"\x07", "\n": r"\n", "\u202e": r"\u202e"}
    return "".join(escapes.get(each, each) for each in name)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_paths_and_names_are_plain_text(
    untrained: Quick, digits: DistilledSet, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    record = digits.header.dataset.model_copy(update={"name": f"of {name}"})
    header = digits.header.model_copy(
        update={"class_names": [name, *"123456789"], "dataset": record}
    )
    replace(digits, header=header).save(folder / "named")
    digits.save(folder / "set")
    words = ["--networks", "mlp(width=4)", "--repeats", 1, "--html", "page.html"]
    said = untrained("transfer", folder / "set", *words)
    assert said.status == 0, said.stderr
    assert shown(name) in said.stdout
    page = (tmp_path / "page.html").read_text()
    assert "<a " not in page
    visible = html.unescape(re.sub(r"<[^>]*>", "", page))
    assert shown(name) in "".join(visible.split("\n"))
    said = untrained("info", folder / "named")
    assert said.status == 0, said.stderr
    assert said.stdout.count(shown(name)) == 2
    for words in (["show", folder / "set", "--out", folder / "a.png"],):
        assert shown(name) in untrained(*words).stdout
    refused = untrained("info", folder / "none")
    assert shown(name) in one_line(refused.stderr)
    for said in (refused, untrained("evaluate", folder / "named")):
        assert "\x1b" not in said.stdout + said.stderr
        one_line(said.stderr)


def test_long_names_are_cut(
    untrained: Quick, digits: DistilledSet, tmp_path: Path
) -> None:
    names = ["long " * 100_000, *"123456789"]
    header = digits.header.model_copy(update={"class_names": names})
    replace(digits, header=header).save(tmp_path / "set")
    assert len(untrained("info", "set").stdout) < 20_000


def test_outputs_are_tried_before_the_work(
    untrained: Quick,
    digits: DistilledSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dd_plugins.evaluation.evaluate.evaluate", None)
    monkeypatch.setattr("dd_plugins.evaluation.cross_architecture.transfer", None)
    monkeypatch.setattr("dd_plugins.synthetic.pictures.save_grid", None)
    path = digits.save(tmp_path / "set.safetensors")
    before = path.read_bytes()
    (tmp_path / "mine").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(path)
    commands = (
        ["evaluate", path, "--json"],
        ["transfer", path, "--networks", "mlp", "--json"],
        ["transfer", path, "--networks", "mlp", "--html"],
        ["show", path, "--out"],
    )
    outputs = ("mine/x", "/proc/x", tmp_path, "mine", "pipe", "/dev/null", "link", path)
    for command in commands:
        for output in outputs:
            said = untrained(*command, output)
            assert said.status in (1, 2), (command, output)
            one_line(said.stderr)
            if output not in ("mine", "mine/x"):
                assert untrained(*command, output, "--overwrite").status in (1, 2)
    both = untrained(*commands[1], "new", "--html", "new")
    assert "named for two outputs" in one_line(both.stderr)
    assert path.read_bytes() == before
    assert (tmp_path / "mine").read_text() == "mine"


def test_overwrite_replaces_what_is_of_another_kind(
    untrained: Quick, digits: DistilledSet, tmp_path: Path
) -> None:
    digits.save(tmp_path / "set")
    words = ["evaluate", "set", "--repeats", 1, *QUICK, "--json", "figures"]
    (tmp_path / "figures").write_text("mine")
    assert "--overwrite" in one_line(untrained(*words).stderr)
    assert untrained(*words, "--overwrite").status == 0
    assert untrained(*words).status == 0, "figures replace figures"
    assert json.loads((tmp_path / "figures").read_text())["test_images"] == 360


def test_figures_are_printed_though_their_files_cannot_be_written(
    untrained: Quick,
    digits: DistilledSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digits.save(tmp_path / "set")

    def full(path: Path, write: object) -> None:
        raise FileError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("dd_plugins.cli.printing.write_atomically", full)
    said = untrained("evaluate", "set", "--repeats", 1, "--json", "new")
    assert said.status == 1
    assert "mlp(width=2)" in said.stdout
    assert "No space left" in one_line(said.stderr.splitlines()[-1])
    words = ["--networks", "mlp", "--repeats", 1, "--json", "new", "--html", "page"]
    said = untrained("transfer", "set", *words)
    assert said.status == 1
    assert "held out" in said.stdout


def test_figures_are_written_though_nobody_reads_the_screen(
    untrained: Quick,
    digits: DistilledSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digits.save(tmp_path / "set")

    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("dd_plugins.cli.evaluate.print_tables", closed)
    words = ["evaluate", "set", "--repeats", 1, *QUICK, "--json", "figures.json"]
    assert untrained(*words).status == 1
    assert json.loads((tmp_path / "figures.json").read_text())["networks"]


def test_export_without_a_form_is_one_line(
    untrained: Quick, digits: DistilledSet, tmp_path: Path
) -> None:
    digits.save(tmp_path / "set")
    said = untrained("export", "set", "--out", "new")
    assert said.status == 2
    assert "folder, npz, pt" in one_line(said.stderr)
    for out in ("set/below", "/proc/new"):
        said = untrained("export", "set", "--to", "npz", "--out", out)
        assert said.status in (1, 2)
        one_line(said.stderr)


def pictures(folder: Path) -> None:
    for label, grey in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            image = Image.new("RGB", (8, 8), (grey, grey, 20 * number))
            image.save(folder / label / f"{number}.png")


def test_a_folder_is_preprocessed_as_asked_and_found_where_it_moved(
    untrained: Quick, tmp_path: Path
) -> None:
    pictures(tmp_path / "old")
    words = ["distill", "--dataset", "folder:old", "--distiller", "random", *SMALL]
    options = ["--preprocessing", "standardize", "--mirror", "--out", "run"]
    said = untrained(*words, *options)
    assert said.status == 0, said.stderr
    header = DistilledSet.read_header(tmp_path / "run")
    assert (header.value_space, header.mirror) == ("standardize", True)
    said = untrained(*words, "--out", "run", "--resume")
    assert "preprocessing was 'standardize', is 'zca'" in one_line(said.stderr)

    evaluate = ["evaluate", "run", "--repeats", 1, *QUICK]
    assert untrained(*evaluate).status == 0
    (tmp_path / "old").rename(tmp_path / "new")
    assert "--dataset" in one_line(untrained(*evaluate).stderr.splitlines()[-1])
    pictures(tmp_path / "other")
    (tmp_path / "other" / "dark" / "0.png").unlink()
    said = untrained(*evaluate, "--dataset", "folder:other")
    assert "must be those that the set was distilled from" in said.stderr
    for command in (
        evaluate,
        ["transfer", "run", "--networks", "mlp(width=2)", "--repeats", 1],
    ):
        said = untrained(*command, "--dataset", "folder:new")
        assert said.status == 0, said.stderr
    said = untrained(*evaluate, "--dataset", "digits")
    assert "must be those that the set was distilled from" in said.stderr
    said = untrained("show", "run", "--dataset", "folder:new")
    assert "--dataset needs --features" in one_line(said.stderr)

    words = ["train-networks", "--network", "mlp(width=2)", "--steps", 1]
    for more in ([], ["--preprocessing", "standardize"], ["--mirror"]):
        said = untrained(*words, "--dataset", "folder:new", "--cache", "kept", *more)
        assert said.status == 0, said.stderr
        assert ": trained," in said.stdout


def test_a_folder_that_an_artifact_names_is_not_read_unasked(
    untrained: Quick, digits: DistilledSet, tmp_path: Path
) -> None:
    pictures(tmp_path / "private")
    record = digits.header.dataset.model_copy(
        update={"name": f"folder:{tmp_path / 'private'}"}
    )
    header = digits.header.model_copy(update={"dataset": record})
    replace(digits, header=header).save(tmp_path / "foreign")
    for command in (
        ["evaluate", "foreign"],
        ["transfer", "foreign", "--networks", "mlp"],
        ["show", "foreign", "--features", "--network", "conv", "--network", "vgg11"],
    ):
        said = untrained(*command)
        assert said.status == 1
        assert "nobody has asked for here" in said.stderr
        assert "--dataset" in said.stderr


def test_a_cache_that_cannot_be_written_is_found_before_the_training(
    untrained: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dd_plugins.training.kept_networks.training_steps_of", None)
    (tmp_path / "file").touch()
    words = ["train-networks", "--network", "mlp(width=2)", "--cache"]
    for folder in ("file", "/proc/cache"):
        said = untrained(*words, folder)
        assert said.status == 1
        assert "cannot write" in one_line(said.stderr)


def test_names_are_shown_on_a_screen_of_few_characters(
    digits: DistilledSet, tmp_path: Path
) -> None:
    names = ["ünï 🎈", *"123456789"]
    header = digits.header.model_copy(update={"class_names": names})
    file = replace(digits, header=header).save(tmp_path / "set")
    said = subprocess.run(
        [sys.executable, "-m", "dd_plugins", "info", file],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert r"\xfcn\xef \U0001f388" in said.stdout
