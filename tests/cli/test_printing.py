"""What commands print is plain text, and is printed whatever else fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from dd_plugins.api import FileError, NetworkResult
from dd_plugins.cli.printing import (
    as_text,
    figure_columns,
    run_all,
    say,
    training_progress,
    write_json,
)
from dd_plugins.runtime import processes

WILD = "\x1b[2Ja\nb\tc\r\x07d\x9be\u202ef\u2028g\x00h"
TAME = r"\x1b[2Ja\nb\tc\r\x07d\x9be\u202ef\u2028g\x00h"


def test_a_line_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    say(WILD)
    say(WILD, err=True)
    assert capsys.readouterr() == (f"{TAME}\n", f"{TAME}\n")


@pytest.mark.parametrize("shown", [WILD, "[red]x[/red]", ":smile:", "ünï", Path("a")])
def test_text_is_shown_as_it_is_written(shown: Any) -> None:
    text = as_text(shown)
    assert text.plain == (TAME if shown == WILD else str(shown))
    assert text.spans == [], "no markup"
    assert text.overflow == "fold"


@pytest.mark.parametrize(
    ("scores", "columns"),
    [
        ((0.5,), ("0.5000", "", "")),
        ((0.25, 0.25), ("0.2500", "0.0000", "0.2500 to 0.2500")),
        ((0.4, 0.5, 0.6), ("0.5000", "0.1000", "0.2516 to 0.7484")),
        ((0.0, 1.0), ("0.5000", "0.7071", "0.0000 to 1.0000")),
    ],
)
def test_figures_have_four_digits(
    scores: tuple[float, ...], columns: tuple[str, str, str]
) -> None:
    assert figure_columns(NetworkResult("mlp", scores)) == columns


@pytest.mark.parametrize(
    ("failing", "raised", "printed"),
    [
        (set(), None, ""),
        ({1}, "1", ""),
        ({0, 2}, "0", "Error: 2\n"),
        ({0, 1, 2}, "0", "Error: 1\nError: 2\n"),
    ],
)
def test_each_is_done_in_its_order_though_others_fail(
    failing: set[int],
    raised: str | None,
    printed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done: list[int] = []

    def action(number: int) -> Any:
        def act() -> None:
            done.append(number)
            if number in failing:
                raise FileError(str(number))

        return act

    if raised is None:
        run_all(*map(action, range(3)))
    else:
        with pytest.raises(FileError, match=raised):
            run_all(*map(action, range(3)))
    assert done == [0, 1, 2]
    assert capsys.readouterr().err == printed


def test_figures_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    write_json(None, {"a": 1})
    assert list(tmp_path.iterdir()) == []
    write_json(tmp_path / "a.json", {"a": [1, None, WILD]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [1, None, WILD]}
    assert text.endswith("}\n")


@pytest.mark.parametrize("rank", [0, 1])
def test_progress_is_told_by_one_process(
    rank: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "rank", lambda: rank)
    with training_progress(in_seconds=True) as on_progress:
        for done in (0.0, 30.0, 60.0):
            on_progress("random: mlp[/x]\x1b", done, 60.0)
    out, err = capsys.readouterr()
    assert out == ""
    said = ["this takes about 60 s", r"random: mlp[/x]\x1b: 100 %"]
    assert err.splitlines() == (said if rank == 0 else [])
