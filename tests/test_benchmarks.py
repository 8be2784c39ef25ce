"""What the scripts in ``benchmarks`` share."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import ROOT

from dd_plugins.data import kept_whitening

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
    from whitening_size import made_row

    monkeypatch.setattr(kept_whitening, "_LONG", 0)
    options = Namespace(
        dataset="fake:2x1x8x8x100",
        data_root=None,
        ipc=1,
        network="conv(width=4, depth=1)",
        evaluation_network="conv(width=4, depth=1)",
        steps=1,
        networks=0,
    )
    kept = [made_row(options, each, 0)["entries_kept"] for each in (3, 0)]
    assert kept == [3, 0]
