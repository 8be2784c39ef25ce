"""The figures of streams, put together."""

from dataclasses import asdict, replace

import pytest

from dd_avalanche.comparison.results import PolicyResult, StreamResult, stream_key


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


def stream(*accuracies: list[float], seed: int = 0) -> StreamResult:
    return StreamResult(
        "dm", "scratch", "none", "uint8", seed, 1, 4, 40, list(accuracies), 1.0, 2.0
    )


@pytest.mark.parametrize(
    ("accuracies", "curve", "forgetting"),
    [
        ([[0.5]], [0.5], None),  # there is nothing to forget in one experience
        ([[], [0.4, 0.8]], [None, 0.6], None),  # measured at its end alone
        ([[0.9], [0.9, 0.3]], [0.9, 0.6], 0.0),
        # The best is not always the first.
        ([[0.5], [0.7, 0.3], [0.2, 0.1, 0.9]], [0.5, 0.5, 0.4], 0.35),
    ],
)
def test_curve_and_forgetting_are_of_what_was_measured(
    accuracies: list[list[float]], curve: list[float], forgetting: float | None
) -> None:
    result = stream(*accuracies)
    assert result.curve == pytest.approx(curve)
    if forgetting is None:
        assert result.forgetting is None
    else:
        assert result.forgetting == pytest.approx(forgetting, abs=1e-9)


def test_row_averages_its_streams() -> None:
    streams = (stream([0.8], [0.6, 0.4]), stream([0.6], [0.2, 0.4], seed=1))
    row = PolicyResult(streams, equal_bytes=True).as_dict()
    assert row["seeds"] == [0, 1]
    assert row["equal_bytes"] is True
    assert row["final_accuracies"] == pytest.approx([0.5, 0.3])
    assert row["final_accuracy_mean"] == pytest.approx(0.4)
    low, high = row["final_accuracy_ci95"]
    assert low < 0.4 < high
    assert row["accuracy_per_experience"] == pytest.approx([0.7, 0.4])
    assert row["average_incremental_accuracy_mean"] == pytest.approx(0.55)
    assert row["forgetting_mean"] == pytest.approx(0.3)


def test_row_leaves_out_a_mean_of_which_a_part_is_missing() -> None:
    row = PolicyResult((stream([], [0.6, 0.4]),)).as_dict()
    assert row["accuracy_per_experience"] == [None, pytest.approx(0.5)]
    assert row["average_incremental_accuracy_mean"] is None
    assert row["forgetting_mean"] is None


def test_stream_is_known_by_what_it_was_made_with() -> None:
    known = stream_key(asdict(stream([0.5])))
    assert stream_key(asdict(stream([0.9]))) == known, "not by its figures"
    for change in (
        {"seed": 2},
        {"policy": "dsa"},
        {"protocol": "replay"},
        {"context": "fixed"},
        {"store": "float32"},
        {"images_per_class": 2},
    ):
        assert stream_key(asdict(stream([0.5])) | change) != known
