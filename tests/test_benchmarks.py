"""What the scripts in ``benchmarks`` share."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import ROOT

import dd_plugins
from dd_plugins.data import kept_whitening

FIGURES = ROOT / "docs" / "benchmarks"
PRINTED = "print('{\"accuracy\": 0.5}')"
FAILED = "raise SystemExit(3)"


def test_failed_row_does_not_stop_the_others_and_is_told_at_the_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from rows import added_rows

    file = tmp_path / "rows.json"
    jobs = [("dm", FAILED), ("frepo", PRINTED), ("dsa", FAILED), ("kip", PRINTED)]
    made = added_rows(file, [(name, ["-c", code]) for name, code in jobs])
    assert [next(made), next(made)] == [{"accuracy": 0.5}] * 2
    with pytest.raises(SystemExit, match="rows not made: dm; dsa"):
        next(made)
    assert json.loads(file.read_text()) == [{"accuracy": 0.5}] * 2


def test_row_of_a_whitening_keeps_its_entries_whatever_was_kept_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import whitening_size

    def fitted(data: dd_plugins.RealData, *_: object, **__: object) -> Namespace:
        def save(path: Path) -> Path:
            path.touch()
            return path

        return Namespace(transform=kept_whitening.fitted_transform(data), save=save)

    monkeypatch.setattr(kept_whitening, "_LONG", 0)
    monkeypatch.setattr(whitening_size.dd_plugins, "distill", fitted)
    monkeypatch.setattr(whitening_size, "validation_accuracies", lambda *_, **__: [])
    options = options_of(dataset="fake:2x1x8x8x100", steps=1, networks=0)
    rows = [whitening_size.made_row(options, each, 0) for each in (None, 3, 0)]
    assert [row["entries_kept"] for row in rows] == [None, 3, 0]


def options_of(**given: object) -> Namespace:
    """Return options of the first rows of docs/benchmarks, but for those given."""
    usual: dict[str, object] = {
        "dataset": "cifar10",
        "ipc": 1,
        "distiller": ["frepo"],
        "network": "dc_convnet(width=32)",
        "evaluation_network": None,
        "seconds": 300.0,
        "seed": 0,
        "most_steps": None,
        "validation_networks": 1,
        "test_networks": 5,
        "data_root": None,
        "out": FIGURES / "methods.json",
    }
    return Namespace(**usual | given)


@pytest.mark.parametrize(
    "more",
    [{"validation_networks": 2}, {"test_networks": 3}, {"most_steps": 10}],
)
def test_row_of_a_method_is_made_for_other_networks_and_steps(
    more: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from methods import missing_rows

    assert not list(missing_rows(options_of()))
    assert len(list(missing_rows(options_of(**more)))) == 1


def test_row_of_a_private_method_is_made_for_another_number_of_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from private import missing_rows

    given: dict[str, object] = {
        "dataset": "mnist",
        "distiller": ["dp_frepo"],
        "epsilon": [1.0, 10.0],
        "network": None,
        "evaluation_network": "conv(width=32)",
        "parametrization": "identity",
        "steps": None,
        "seeds": 3,
        "test": True,
        "out": FIGURES / "private.json",
    }
    assert not list(missing_rows(options_of(**given, networks=2)))
    assert len(list(missing_rows(options_of(**given, networks=1)))) == 6


def test_set_of_a_part_of_a_seed_is_scored_by_another_number_of_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import seed_parts

    def scores(distilled: object, data: object, networks: int) -> list[float]:
        return [0.5] * networks

    monkeypatch.setattr(seed_parts.dd_plugins, "distill", lambda *_, **__: None)
    monkeypatch.setattr(seed_parts, "validation_accuracies", scores)
    out = tmp_path / "rows.json"
    shutil.copy(FIGURES / "seed-parts.json", out)
    before = json.loads(out.read_text())
    options = options_of(distiller="frepo", network="conv(width=32)", out=out)
    for networks in (3, 2, 2):
        options.networks = networks
        seed_parts.measure(options, None, "pool", 1, 400)
    added = json.loads(out.read_text())[len(before) :]
    assert [row["networks"] for row in added] == [2]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("random", True),
        ("kmeans", True),
        ("herding(training_steps=0)", True),
        ("clip(random)", True),
        ("dm", False),
        ("frepo", False),
    ],
)
def test_method_of_one_step_is_not_given_more(
    spec: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from methods import takes_one_step

    data = dd_plugins.get_dataset("fake:2x1x8x8x4")
    assert takes_one_step(spec, data, 1) == expected


def test_time_to_pass_a_rival_is_that_of_its_run_in_the_same_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from methods import passing

    def row(distiller: str, accuracy: float, **own: object) -> dict[str, object]:
        return {
            "dataset": "mnist",
            "images_per_class": 1,
            "distiller_asked": distiller,
            "network": "mlp",
            "seconds_asked": 60.0,
            "evaluation_network_asked": None,
            "seed": 0,
            "validation_networks": 1,
            "validation": [{"seconds": 60, "accuracies": [accuracy]}],
        } | own

    rows = [
        row("frepo", 0.5),
        row("frepo", 0.5, network="conv"),
        row("dsa", 0.4),
        row("dsa", 0.6, network="conv"),
        row("dsa", 0.7, seed=1),
        row("dsa", 0.8, seconds_asked=600.0),
        row("dm", 0.4, network="conv"),
    ]
    told = [line.split(" | ")[-2:] for line in passing(rows).splitlines()[2:4]]
    assert told == [["60 s", "60 s |"], ["not reached", "60 s |"]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--distiller and --out are required"),
        (["--out", "rows.json"], "--distiller and --out are required"),
        (["--out", "rows.json", "--distiller", "dp_dm"], "--epsilon is required"),
    ],
)
def test_private_benchmark_tells_what_it_lacks(
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import private

    monkeypatch.setattr("sys.argv", ["private.py", *words])
    with pytest.raises(SystemExit):
        private.main()
    assert told in capsys.readouterr().err
