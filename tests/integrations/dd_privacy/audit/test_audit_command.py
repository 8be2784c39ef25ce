"""The command ``audit``: figures, refusals, and what it goes on with."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from shutil import copy, copytree

import numpy as np
import pytest
from conftest import Command, Said, Started
from privacy_data import MLP, noisy_data

import dd_plugins
from dd_plugins.errors import DDWarning
from dd_plugins.testing import toy_data

COMMAND = [
    *("audit", "frepo(pool_size=1)", "--dataset", "digits", "--members", "300"),
    *("--shadows", "4", "--steps", "8", "--training-steps", "5", "--network", MLP),
]


def test_command_writes_a_row_for_each_attack_and_group(
    command_line: Command, tmp_path: Path
) -> None:
    done = command_line(
        *COMMAND,
        *("--canaries", "60", "--compare", "all,random,noise", "--processes", "2"),
        *("--steps", "2"),
        *("--json", "a.json", "--html", "a.html", "--all-steps", "12", "--all-plain"),
    )
    assert done.returncode == 0, done.stderr
    assert "20 runs, 0 of them kept from before; about" in done.stderr
    assert done.stdout.startswith("The strongest of 8 attacks, ")
    content = json.loads((tmp_path / "a.json").read_text())
    rows = content["results"]
    audited = [row for row in rows if row["mechanism"].startswith("frepo(pool_size=1)")]
    attacks = {row["attack"] for row in audited}
    assert {"loss", "lira", "lira(online=False)", "rmia", "pixel_distance"} <= attacks
    assert {row["group"] for row in audited} == {
        "initial_members",
        "other_members",
        "canaries",
    }
    assert {row["threat_model"] for row in audited} == {"model", "images", "both"}
    for row in rows:
        assert set(row["tpr_at_fpr"]) == {"0.01", "0.001", "0"}
        for figure in (row["auc"], row["advantage"], *row["tpr_at_fpr"].values()):
            assert set(figure) == {"estimate", "ci95", "withheld"}
            assert (figure["estimate"] is None) == (figure["withheld"] is not None)
    assert [each["name"] for each in content["mechanisms"]] == [
        "frepo(pool_size=1)",
        "all members, plain",
        "random real images",
        "frepo(pool_size=1) from noise",
    ]
    of_all = content["mechanisms"][1]["about"]
    assert (of_all["training_steps"], of_all["augment"]) == (12, False)
    of_noise = content["mechanisms"][-1]["about"]
    assert (of_noise["initial_images"], of_noise["steps"]) == ("noise", 2)
    assert "report: a.html" in done.stdout


def test_killed_audit_goes_on(tmp_path: Path) -> None:
    def start(name: str) -> Started:
        words = [*COMMAND, "--steps", "20", "--json", f"{name}.json"]
        words += ["--attacks", "loss,lira"]
        return Started(*words, folder=tmp_path, DD_CACHE=str(tmp_path / name))

    audit = start("killed")
    cache = tmp_path / "killed"
    while len(list(cache.rglob("seen.safetensors"))) < 2 and not audit.ended(0.02):
        pass
    audit.kill()
    kept = len(list(cache.rglob("seen.safetensors")))
    assert 2 <= kept < 5
    # Two at once: what one is making the other waits for.
    for each in [start("killed"), start("killed")]:
        done = each.finish()
        assert done.returncode == 0, done.stderr
        assert "5 runs, " in done.stderr
    assert len(list(cache.rglob("seen.safetensors"))) == 5
    assert start("whole").finish().returncode == 0
    resumed, whole = (
        json.loads((tmp_path / f"{name}.json").read_text())["results"]
        for name in ("killed", "whole")
    )
    assert resumed == whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--members", "700"], "need 1400 training images, 'digits' has 1298"),
        (
            ["--shadows", "2", "--attacks", "lira"],
            "needs at least 4 shadow runs, got 2",
        ),
        (["--attacks", "lyra"], "unknown attack 'lyra'; known, nearest first: lira"),
        (["--rates", "0.001"], "ask for more --members, or a higher rate"),
        (
            ["--rates", "0.001", "--non-members", "test"],
            "needs 10000 non-members, got 360 test images; choose a higher rate",
        ),
        (["--rates", "often"], "--rates must be numbers separated by commas"),
        (["--rates", "1"], "must be in [0, 1), got 1.0"),
        (["--compare", "magic"], "--compare must be one of all, random, noise"),
        (["--json", "nowhere/a.json"], "nowhere/a.json needs a folder that exists"),
        (["--html", "/"], "cannot write /: it is a folder"),
        (["--all-plain"], "--all-plain needs --compare all"),
        (["--compare", "all", "--epsilon", "1"], "--epsilon needs --compare private"),
        (["--shadows", "1"], "shadows must be 0, or 2 or more, got 1"),
    ],
)
def test_wrong_input_is_one_clear_line(
    words: list[str], message: str, in_process: Callable[..., Said]
) -> None:
    done = in_process(*COMMAND, *words)
    assert done.status in (1, 2)
    (line,) = done.stderr.strip().splitlines()
    assert message in line


def test_artifact_of_another_data_set_is_refused(
    command_line: Command, tmp_path: Path
) -> None:
    made = dd_plugins.distill(noisy_data(200), "random", network=MLP)
    made.save(tmp_path / "set.safetensors")
    words = ["audit", "set.safetensors", "--dataset", "digits", "--shadows", "0"]
    done = command_line(*words)
    assert done.returncode == 2
    assert "those of 'noisy', got those of 'digits'" in done.stderr
    private = dd_plugins.distill(noisy_data(200), "dp_dm(1)", steps=1, network=MLP)
    private.save(tmp_path / "private.safetensors")  # it knows no fingerprint
    words[1] = "private.safetensors"
    assert "those of 'noisy', got those of 'digits'" in command_line(*words).stderr
    own = dd_plugins.distill("digits", "random", network=MLP)
    own.save(tmp_path / "own.safetensors")
    words[1] = "own.safetensors"
    for given in (
        ["--canaries", "5"],
        ["--ipc", "1"],
        ["--compare", "all"],
        ["--parametrization", "packed"],
    ):
        refused = command_line(*words, *given)
        assert f"{given[0]} needs a distiller's spec, got an artifact" in refused.stderr
    del words[2:4]  # the data is known by the artifact
    few = ("--members", "300", "--training-steps", "3", "--attacks", "loss")
    done = command_line(*words, *few)
    assert done.returncode == 0, done.stderr
    done = command_line("audit", "dm")
    assert "--dataset is needed to audit the distiller dm" in done.stderr
    unknown = command_line("audit", "dmm")
    assert "unknown distiller 'dmm'; known, nearest first: dm, " in unknown.stderr
    missing = command_line("audit", "runs/none.safetensors", "--dataset", "digits")
    assert "an artifact or a distiller's spec, got runs" in missing.stderr
    public = "dp_dm(epsilon=1, public='folder:photos/none')"
    missing = command_line("audit", public, "--dataset", "digits", "--members", 300)
    assert "an artifact or a distiller's spec" not in missing.stderr
    assert "photos/none" in missing.stderr


@pytest.mark.parametrize(
    ("images", "preprocessing", "warned"),
    [(40, "zca", True), (40, "standardize", False), (120, "zca", False)],
)
def test_a_whitening_of_few_images_is_told(
    images: int,
    preprocessing: str,
    warned: bool,
    in_process: Callable[..., Said],
    tmp_path: Path,
) -> None:
    train = toy_data(validation=0.0).train
    np.savez(
        tmp_path / "few.npz",
        x_train=train.images[:images, 0],
        y_train=train.labels[:images],
    )
    words = ["--dataset", "npz:few.npz", "--preprocessing", preprocessing, "--ipc", "1"]
    done = in_process("distill", "--distiller", "random", *words, "--out", "made")
    assert done.status == 0, done.stderr
    words = ["--shadows", "0", "--members", "20", "--training-steps", "1"]
    message = "a whitening of 30 images of 64 values, and it tells these images from"
    with pytest.warns(DDWarning, match=message) if warned else nullcontext():
        done = in_process("audit", "made", *words, "--attacks", "pixel_distance")
    assert done.status == 0, done.stderr


def test_population_of_a_private_set_is_not_among_its_images(
    in_process: Callable[..., Said], tmp_path: Path
) -> None:
    made = dd_plugins.distill("digits", "dp_dm(1)", steps=1, network=MLP)
    made.save(tmp_path / "private.safetensors")
    done = in_process(
        *("audit", "private.safetensors", "--shadows", "0", "--members", "30"),
        *("--training-steps", "2", "--attacks", "loss", "--json", "a.json"),
    )
    assert done.status == 0, done.stderr
    content = json.loads((tmp_path / "a.json").read_text())
    about, data = content["about"], dd_plugins.get_dataset("digits")
    assert about["members"] == [30]
    assert about["always_members"] == made.header.dataset.train_images - 30
    assert about["always_members"] == len(data.undivided().train.labels) - 30
    assert about["population"] == len(data.read_test().labels) - 30
    assert content["mechanisms"][0]["accuracy_mean"] is not None


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    dd_plugins.distill("digits", "random", network=MLP, out=folder)
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "run/distilled.safetensors"], "is read by this command"),
        (["--json", "set.safetensors"], "is read by this command"),
        (["--html", "link.html"], "is read by this command"),
        (["--json", "a", "--html", "./a"], "is named for two outputs"),
        (["--json", "notes.txt"], "notes.txt exists, and holds no JSON"),
        (["--html", "old.json"], "old.json exists, and holds no HTML"),
        (["--html", "run/summary.json", "--overwrite"], "belongs to a run"),
    ],
)
def test_outputs_replace_nothing_else(
    words: list[str],
    message: str,
    finished_run: Path,
    in_process: Callable[..., Said],
    tmp_path: Path,
) -> None:
    copytree(finished_run, tmp_path / "run")
    if words[1] != "run/distilled.safetensors":
        copy(finished_run / "distilled.safetensors", tmp_path / "set.safetensors")
    (tmp_path / "link.html").symlink_to("set.safetensors")
    for name in ("notes.txt", "old.json", "run/summary.json"):
        (tmp_path / name).write_text("{}" if name == "old.json" else "mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    audited_set = "run" if "run" in words[1] else "set.safetensors"
    done = in_process(
        *("audit", audited_set, "--dataset", "digits", "--shadows", "0"), *words
    )
    assert (done.status, done.stdout) == (2, "")
    assert message in done.stderr
    for file, content in before.items():
        assert file.read_bytes() == content
