"""The figures of streams, put together."""

from dataclasses import replace

import pytest

from dd_avalanche.comparison.results import PolicyResult, StreamResult

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)


def test_stream_results_are_summed_up_right() -> None:
    accuracies = [[0.8], [0.5, 0.7], [0.6, 0.4, 0.2]]
    stream = StreamResult(
        "random", "scratch", "none", "real", 0, 1, 4, 40, accuracies, 1.0, 2.0
    )
    assert stream.curve == pytest.approx([0.8, 0.6, 0.4])
    # From 0.8 to 0.6, and from 0.7 to 0.4.
    assert stream.forgetting == pytest.approx(0.25)
    better = replace(stream, accuracies=[[0.5], [0.6, 0.5], [0.7, 0.6, 0.5]])
    assert better.forgetting == pytest.approx(-0.1), "what improves is no zero"
    row = PolicyResult((stream,)).as_dict()
    assert row["final_accuracy_mean"] == pytest.approx(0.4)
    assert row["final_accuracy_ci95"] is None
    assert row["average_incremental_accuracy_mean"] == pytest.approx(0.6)
