"""What the scripts in ``benchmarks`` share."""

import json
from pathlib import Path

import pytest
from conftest import ROOT

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
