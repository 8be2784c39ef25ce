"""Pictures of a report."""

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch
from privacy_data import audit_by_hand

from dd_privacy.audit.plots import _roc, nearest_picture, roc_picture
from dd_privacy.audit.results import NearestMembers
from dd_privacy.audit.statistics import Figure, Scores, clopper_pearson


def is_png(picture: str | None) -> bool:
    return picture is not None and base64.b64decode(picture).startswith(b"\x89PNG")


def test_curves_have_a_panel_for_each_group_that_has_figures() -> None:
    rows = list(audit_by_hand().rows[:2])
    both, one = roc_picture(rows), roc_picture(rows[:1])
    assert is_png(both)
    assert is_png(one)
    widths = [
        int.from_bytes(base64.b64decode(picture or "")[16:20], "big")
        for picture in (both, one)
    ]
    assert widths[0] == 2 * widths[1]


def test_without_figures_there_are_no_curves() -> None:
    withheld = Figure(None, None, "too few")
    rows = [replace(row, auc=withheld) for row in audit_by_hand().rows]
    assert roc_picture(rows) is None
    assert roc_picture([]) is None


def test_rates_rise_along_a_curve_and_lie_in_their_band() -> None:
    generator = np.random.default_rng(0)
    scores = Scores(generator.normal(1, 1, 300), generator.normal(0, 1, 900))
    false, true, low, high = _roc((scores, scores))
    assert (np.diff(false) > 0).all()
    assert (np.diff(true) >= 0).all()
    assert (false[-1], true[-1]) == (1.0, 1.0)
    assert ((low <= true) & (true <= high)).all()
    assert (true[100:] >= false[100:]).all(), "members have higher scores"


def test_a_curve_counts_members_above_thresholds_by_hand() -> None:
    scores = Scores(np.arange(100.0), np.arange(100.0) - 0.5)
    false, true, low, _ = _roc((scores,))
    at = int(np.abs(false - 0.1).argmin())
    above = int(np.floor(false[at] * 100))
    # As many members as the non-members allowed are above, and the one between.
    assert true[at] == pytest.approx((above + 1) / 100, abs=0.011)
    assert low[at] == pytest.approx(
        clopper_pearson(round(true[at] * 100), 100)[0], abs=1e-9
    )


def test_a_run_without_non_members_has_no_part_in_a_curve() -> None:
    scores = Scores(np.arange(50.0), np.arange(50.0))
    lonely = Scores(np.arange(50.0), np.empty(0))
    _, alone, _, _ = _roc((scores,))
    _, both, _, _ = _roc((scores, lonely))
    assert both[-1] == 0.5, "its members count, and none is found"
    assert (both <= alone).all()


@pytest.mark.parametrize("channels", [2, 3])
def test_images_of_any_channels_are_shown_beside_their_members(channels: int) -> None:
    pixels = torch.rand(2, channels, 4, 4)
    nearest = NearestMembers(pixels, pixels, torch.zeros(2), torch.zeros(2))
    assert is_png(nearest_picture(nearest)), "a typical distance of zero as well"
