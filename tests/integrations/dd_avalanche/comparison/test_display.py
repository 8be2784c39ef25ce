"""The results of a comparison as a table and as a picture."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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
    assert interval == "1.5 to 100.0", "65 and 12.7 standard errors of 5 beside it"
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


def test_a_terminal_of_80_characters_shows_every_figure_whole() -> None:
    big = replace(STREAM, memory_bytes=12_544_000, distill_seconds=1234.0)
    console = Console(width=80, record=True)
    rows = [PolicyResult((big, replace(big, seed=1, accuracies=[[0.9], [0.7, 0.7]])))]
    console.print(results_table(Experiment(), "replay", rows))
    text = console.export_text()
    for figure in ("12544000", "1.5 to 100.0", "forgotten", "seconds", "1234"):
        assert figure in text
    assert "…" not in text


def panels(monkeypatch: pytest.MonkeyPatch, rows: list[PolicyResult]) -> list[Axes]:
    """Return the panels of the picture of these rows."""
    drawn: list[Figure] = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *_, **__: drawn.append(figure)
    )
    with TemporaryDirectory() as folder:
        save_plot(Experiment(experiences=2), rows, Path(folder) / "x.png")
    return drawn[0].axes


def lines(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.lines}


def test_a_policy_has_one_colour_in_both_panels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = [
        PolicyResult((replace(each.streams[0], protocol="scratch"),))
        for each in ROWS[2:0:-1]
    ]
    naive = PolicyResult((replace(REAL, policy="naive", store="none"),))
    first, second = map(lines, panels(monkeypatch, [*scratch, naive, *ROWS[:3]]))
    assert first.keys() == {"joint", "random"}
    assert second.keys() == {
        *("naive", "joint", "dm, context fixed, uint8", "random, equal bytes")
    }
    assert first["joint"].get_color() == second["joint"].get_color()
    assert first["random"].get_color() == second["random, equal bytes"].get_color()
    assert len({str(line.get_color()) for line in second.values()}) == 4


def test_panels_have_one_scale_and_the_bound_is_a_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = panels(monkeypatch, ROWS)
    assert first.get_ylabel() == "mean accuracy over the experiences so far, in %"
    assert first.get_ylim() == second.get_ylim()
    level = lines(first)["joint"]
    assert [float(y) for y in level.get_ydata()] == pytest.approx([85, 85])  # type: ignore[union-attr]
    assert level.get_xdata() == [0, 1], "from edge to edge"


def test_bars_reach_from_the_lowest_to_the_highest_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (axes,) = panels(monkeypatch, ROWS[:1])
    (bars,) = axes.collections
    ends = [[y for _, y in path.vertices] for path in bars.get_paths()]
    assert ends == [pytest.approx([90, 90]), pytest.approx([60, 70])]
