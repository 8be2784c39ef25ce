"""An experiment that cannot be done is refused before its first stream."""

import sys
import warnings
from typing import Any

import pytest
import torch

import dd_plugins
from dd_avalanche.comparison.choices import BENCHMARKS
from dd_avalanche.comparison.experiment import Experiment, check_experiment
from dd_plugins.errors import DDWarning, MissingExtraError, OptionError


def real(classes: int) -> dd_plugins.RealData:
    labels = torch.arange(4 * classes) % classes
    return dd_plugins.RealData.from_tensors(torch.rand(len(labels), 1, 4, 4), labels)


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        (10, {}),
        (4, {"experiences": 2, "memory": 4}),
        (9, {"experiences": 3, "memory": 99}),
    ],
)
def test_experiment_that_divides_its_classes_is_taken(
    classes: int, options: dict[str, Any]
) -> None:
    check_experiment(Experiment(**options), ["scratch"], real(classes))


@pytest.mark.parametrize(
    ("classes", "options", "uses", "message"),
    [
        (10, {"experiences": 3}, ["scratch"], "got 3 experiences for 10 classes"),
        (4, {"experiences": 4}, ["scratch"], "equal parts of at least two, got 4"),
        (4, {"experiences": 1}, ["scratch"], "got 1 experiences for 4 classes"),
        (4, {"experiences": 2, "memory": 3}, ["scratch"], "at least 4, .* got 3"),
        (10, {}, ["scratch", "replays"], "replay, scratch, got 'replays'"),
        (10, {"whitening": "all"}, ["scratch"], "none, first, got 'all'"),
    ],
)
def test_what_cannot_be_done_is_said(
    classes: int, options: dict[str, Any], uses: Any, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        check_experiment(Experiment(**options), uses, real(classes))


def test_memory_with_a_remainder_tells_how_many_images_fit() -> None:
    with pytest.warns(DDWarning, match="memory holds 10 of the 13 images asked for"):
        check_experiment(Experiment(memory=13), ["scratch"], real(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_experiment(Experiment(memory=20), ["scratch"], real(10))


def test_replay_alone_needs_avalanche(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "avalanche", None)
    monkeypatch.setitem(sys.modules, "avalanche.benchmarks", None)
    check_experiment(Experiment(), ["scratch"], real(10))
    with pytest.raises(MissingExtraError, match="pip install"):
        check_experiment(Experiment(), ["scratch", "replay"], real(10))


def test_benchmarks_split_data_sets_of_the_library() -> None:
    for name, (scenario, data) in BENCHMARKS.items():
        assert name == f"{scenario}-{data}"
        assert Experiment(name).scenario == scenario
    assert BENCHMARKS["split-fashion-mnist"] == ("split", "fashion-mnist")


def test_images_may_be_divided_into_any_number_of_domains() -> None:
    check_experiment(Experiment("rotated-mnist", experiences=3), ["scratch"], real(10))
    with pytest.raises(OptionError, match="experiences must be at least 2, got 1"):
        check_experiment(
            Experiment("permuted-mnist", experiences=1), ["scratch"], real(10)
        )
