"""`distill --restarts`: short runs, of which validation images choose the seed."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BRIEFLY, Started

import dd_plugins
from dd_plugins.api import get_recipe
from dd_plugins.synthetic.artifact import DistilledSet

SMALL = ["--dataset", "digits", "--network", "mlp(width=8)", "--device", "cpu"]
METHOD = ["--distiller", "frepo(pool_size=2)", "--precision", "float32"]


def distil(
    out: Path, *words: str, status: int = 0
) -> "subprocess.CompletedProcess[str]":
    command = ["distill", "--out", out, *SMALL, *METHOD, *words]
    done = Started(*command, folder=out.parent, code=BRIEFLY).finish()
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_seed_of_the_best_short_run_goes_on(tmp_path: Path) -> None:
    out, words = tmp_path / "run", ["--steps", "4", "--restarts", "2", "--seed", "5"]
    words += ["--restart-steps", "2"]
    told = distil(out, *words).stdout
    scores = {
        int(seed): float(score)
        for seed, score in re.findall(r"seed (\d+): validation accuracy (\S+)", told)
    }
    assert set(scores) == {5, 6}
    assert len(set(scores.values())) > 1, "else nothing is chosen"
    best = max(scores, key=lambda seed: scores[seed])
    assert f"seed {best} goes on" in told
    made = DistilledSet.load(out)
    assert (made.header.seed, made.header.steps) == (best, 4)
    alone = dd_plugins.distill(
        "digits", "frepo(pool_size=2)", seed=best, steps=4, network="mlp(width=8)",
        device="cpu", precision="float32",
    )  # fmt: skip
    assert torch.equal(made.images, alone.images), "as if the seed had been given"
    short = DistilledSet.load(tmp_path / "run-restarts" / str(best))
    assert (short.header.seed, short.header.steps) == (best, 2)
    recipe = get_recipe(short.header.recipe or "")
    assert recipe.steps == 60, "of the command"
    data = dd_plugins.get_dataset("digits")
    judged = replace(data, read_test=lambda: data.validation)
    found = dd_plugins.evaluate(
        short, repeats=3, data=judged, device="cpu", precision="float32"
    )
    assert found.networks[0].mean == pytest.approx(scores[best], abs=1e-4)

    refused = distil(out, *words, status=2).stderr
    assert "--resume" in refused
    (other,) = {5, 6} - {best}
    kept = {
        seed: tmp_path / "run-restarts" / str(seed) / "validation.json"
        for seed in (best, other)
    }
    kept[best].write_text("{")  # damaged: made again
    assert distil(out, *words, "--resume").stdout.startswith(told.split("goes on")[0])
    better = json.loads(kept[other].read_text()) | {"accuracies": [1.0] * 3}
    kept[other].write_text(json.dumps(better))
    refused = distil(out, *words, "--resume", status=2).stderr
    assert f"seed was {best}, is {other}" in refused, "kept accuracies were not read"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--restart-steps", "5"], "needs --restarts"),
        (["--restarts", "1"], "restarts"),
        (["--restarts", "2", "--distiller", "dp_dm(3)"], "private method"),
    ],
)
def test_restarts_that_choose_nothing_are_refused(
    tmp_path: Path, words: list[str], message: str
) -> None:
    refused = distil(tmp_path / "run", *words, status=2).stderr
    assert message in " ".join(refused.split())
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run-restarts").exists()


@pytest.mark.parametrize("out", [".", "sub/.."])
def test_the_current_folder_takes_restarts(
    tmp_path: Path, in_process: Any, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dd_plugins.training.recipes._CLASSIC_EPOCHS", 2)
    (tmp_path / "sub").mkdir()
    words = ["--distiller", "random", "--restarts", "2", "--restart-steps", "1"]
    words += ["--network", "mlp(width=2)", "--out", out]
    said = in_process("distill", *words)
    assert said.status == 0, said.stderr
    short = tmp_path.with_name(f"{tmp_path.name}-restarts")
    assert {each.name for each in short.iterdir()} == {"0", "1"}


def test_data_without_validation_images_is_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 8, 8), dtype=np.uint8), np.arange(4) % 2
    file = tmp_path / "few.npz"
    np.savez(file, train_images=images, train_labels=labels,
             test_images=images, test_labels=labels)  # fmt: skip
    words = ["--dataset", f"npz:{file}", "--restarts", "2"]
    refused = distil(tmp_path / "run", *words, status=2).stderr
    assert "needs validation images" in " ".join(refused.split())
    assert not (tmp_path / "run-restarts").exists()
