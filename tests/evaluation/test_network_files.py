"""Networks of an evaluation that was stopped: the next one trains only the rest."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import dd_plugins
from dd_plugins import DistilledSet
from dd_plugins.api import Evaluation, FileError
from dd_plugins.evaluation.network_files import NetworkFile
from dd_plugins.testing import toy_data

SPECS = ["mlp(width=2)", "conv(width=2, depth=1, normalization='batch')"]
TRAINED = len(SPECS) * 3 * 2  # networks, kinds of training set and repeats


@pytest.fixture(scope="module")
def distilled() -> DistilledSet:
    return dd_plugins.distill(
        toy_data(), "frepo(pool_size=1)", steps=1, network="mlp(width=2)"
    )


class Counted:
    """Counts the networks that are trained, and stops an evaluation after some."""

    def __init__(self, most: int = 100) -> None:
        self.names: list[str] = []
        self.most = most

    def __call__(self, what: str, done: float, total: float) -> None:
        assert done <= total + 1e-9
        if what not in self.names:
            self.names.append(what)
        if len(self.names) > self.most:
            raise KeyboardInterrupt


def evaluated(distilled: DistilledSet, counted: Counted, **options: Any) -> Evaluation:
    given = {
        "networks": SPECS,
        "repeats": 2,
        "baselines": True,
        "full_steps": 5,
        "data": toy_data(),
        "protocol": "recipe(steps=6, learning_rate=0.01)",
    }
    given |= options
    if not given["baselines"]:
        del given["full_steps"]
    return dd_plugins.evaluate(distilled, on_progress=counted, **given)


def test_networks_on_all_images_are_kept_by_their_steps(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    evaluated(distilled, Counted(), kept=tmp_path)
    counted = Counted()
    evaluated(distilled, counted, kept=tmp_path, full_steps=6)
    names = [f"all images: {spec}, network {n} of 2" for spec in SPECS for n in (1, 2)]
    assert counted.names == names


def test_a_stopped_evaluation_goes_on_to_the_same_figures(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluated(distilled, Counted(most=5), kept=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    rest = Counted()
    found = evaluated(distilled, rest, kept=str(tmp_path))
    assert len(rest.names) == TRAINED - 5
    assert found == evaluated(distilled, Counted())
    nothing = Counted()
    assert evaluated(distilled, nothing, kept=tmp_path) == found
    assert nothing.names == []


def test_networks_that_another_process_removes_are_trained(
    distilled: DistilledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluated(distilled, Counted(), kept=tmp_path)
    load = NetworkFile.load

    def load_and_remove(file: NetworkFile, module: nn.Module) -> None:
        load(file, module)
        shutil.rmtree(tmp_path)  # as the same command does, when it ends

    monkeypatch.setattr(NetworkFile, "load", load_and_remove)
    counted = Counted()
    assert evaluated(distilled, counted, kept=tmp_path) == found
    assert len(counted.names) == TRAINED - 1


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"protocol": "recipe(steps=7, learning_rate=0.01)", "baselines": False},
        {"networks": ["mlp(width=3)"]},
        {"data": toy_data(validation=0.2), "baselines": False},
    ],
)
def test_networks_of_another_evaluation_are_not_taken(
    distilled: DistilledSet, changed: dict[str, Any], tmp_path: Path
) -> None:
    evaluated(distilled, Counted(), kept=tmp_path)
    counted = Counted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dd_plugins.evaluation.evaluate.warn_if_other_images", print)
        evaluated(distilled, counted, kept=tmp_path, **changed)
    kinds = 3 if changed.get("baselines", True) else 1
    assert len(counted.names) == len(changed.get("networks", SPECS)) * kinds * 2


def test_networks_of_another_set_are_not_taken(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    evaluated(distilled, Counted(), kept=tmp_path)
    counted = Counted()
    other = replace(distilled, images=distilled.images + 1)
    evaluated(other, counted, kept=tmp_path, baselines=False)
    assert len(counted.names) == len(SPECS) * 2


def test_a_network_without_a_known_content_is_trained_anew(
    distilled: DistilledSet, tmp_path: Path
) -> None:
    lock = threading.Lock()

    def make(num_classes: int) -> nn.Module:
        with lock:
            return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    for _ in range(2):
        counted = Counted()
        evaluated(distilled, counted, kept=tmp_path, networks=make, baselines=False)
        assert len(counted.names) == 2
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(distilled: DistilledSet, tmp_path: Path) -> None:
    evaluated(distilled, Counted(), kept=tmp_path, baselines=False)
    file = min(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(FileError, match=f"{file.name}.*remove the file"):
        evaluated(distilled, Counted(), kept=tmp_path, baselines=False)
