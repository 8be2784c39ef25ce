"""The results of a comparison as a table and as a picture."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dd_avalanche.comparison.display import results_table, save_plot
from dd_avalanche.comparison.experiment import Experiment
from dd_avalanche.comparison.results import PolicyResult, StreamResult
from dd_plugins.errors import FileError

STREAM = StreamResult(
    policy="dm",
    protocol="replay",
    context="fixed",
    store="uint8",
    seed=0,
    images_per_class=2,
    memory_images=20,
    memory_bytes=1440,
    accuracies=[[0.9], [0.5, 0.7]],
    distill_seconds=3.6,
    seconds=5.0,
)
REAL = replace(STREAM, policy="random", context="none", store="real")
BOUND = replace(REAL, policy="joint", store="none", accuracies=[[], [0.8, 0.9]])
ROWS = [
    PolicyResult((STREAM, replace(STREAM, seed=1, accuracies=[[0.9], [0.7, 0.7]]))),
    PolicyResult((REAL,), equal_bytes=True),
    PolicyResult((BOUND,)),
    PolicyResult((replace(REAL, protocol="scratch"),)),
]


def cells(row: int) -> list[str]:
    table = results_table(Experiment(), "replay", ROWS)
    return [list(column.cells)[row] for column in table.columns]  # type: ignore[misc]


def test_table_holds_the_rows_of_one_use_of_the_memory() -> None:
    table = results_table(Experiment(), "replay", ROWS)
    assert table.title == "split-fashion-mnist, 5 experiences, replay, test images"
    assert table.row_count == 3
    assert results_table(Experiment(), "scratch", ROWS).row_count == 1
    console = Console(width=100, record=True)
    console.print(table)
    assert "forgotten" in console.export_text()


def test_row_names_only_what_is_not_the_rule() -> None:
    assert [cells(row)[0] for row in range(3)] == [
        "dm, context fixed, uint8",
        "random, equal bytes",
        "joint",
    ]


def test_figures_are_percents_and_what_was_not_measured_is_left_out() -> None:
    _, images, size, final, interval, forgotten, seconds = cells(0)
    assert (images, size, final, seconds) == ("20", "1440", "65.0", "4")
    assert forgotten == "30.0"
    assert interval == "1.5-128.5", "65 and 12.7 standard errors of 5 beside it"
    assert cells(1)[4] == "", "one stream has no interval"
    assert cells(2)[5] == "", "a bound that is measured at its end forgets nothing"


def test_picture_has_a_part_for_each_use_of_the_memory(tmp_path: Path) -> None:
    path = save_plot(Experiment(experiences=2), ROWS, tmp_path / "curves.png")
    both = path.read_bytes()
    assert both.startswith(b"\x89PNG")
    one = save_plot(Experiment(experiences=2), ROWS[:3], tmp_path / "one.png")
    # The width stands in the header of a PNG file.
    width = [int.from_bytes(data[16:20], "big") for data in (both, one.read_bytes())]
    assert width[0] == 2 * width[1]
    with pytest.raises(FileError, match="cannot write"):
        save_plot(Experiment(experiences=2), ROWS, Path("/proc/no.png"))
