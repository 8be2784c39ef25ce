"""Pictures of a report."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from privacy_data import audit_by_hand

from dd_privacy.audit.plots import Drawn, _roc, nearest_picture, roc_pictures
from dd_privacy.audit.results import NearestMembers
from dd_privacy.audit.statistics import Figure, Scores, clopper_pearson


def pixels(picture: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA"))


def is_drawn(drawn: Drawn) -> bool:
    """Tell whether both pictures are of one shape, and have no background."""
    light, dark = map(pixels, drawn)
    return light.shape == dark.shape and light[0, 0, 3] == dark[0, 0, 3] == 0


def test_each_group_that_has_figures_has_a_picture() -> None:
    rows = list(audit_by_hand().rows[:2])
    pictures = roc_pictures(rows)
    assert list(pictures) == ["other_members", "initial_members"]
    assert all(map(is_drawn, pictures.values()))
    withheld = replace(rows[0], auc=Figure(None, None, "too few"))
    assert list(roc_pictures([withheld, rows[1]])) == ["initial_members"]


def test_ink_is_dark_on_a_light_page_and_light_on_a_dark_one() -> None:
    (drawn,) = roc_pictures(list(audit_by_hand().rows[:1])).values()
    ink = [
        int(picture[picture[..., 3] == 255][:, :3].sum(axis=1).min())
        for picture in map(pixels, drawn)
    ]
    assert ink[0] < 150
    assert ink[1] > 150


def test_only_the_first_curve_has_a_band() -> None:
    generator = np.random.default_rng(0)
    curves = (Scores(generator.normal(1, 1, 200), generator.normal(0, 1, 200)),)
    first = replace(audit_by_hand().rows[0], curves=curves)
    second = replace(first, attack="second()")
    one, two = (
        pixels(roc_pictures(rows)["other_members"].light)
        for rows in ([first], [first, second])
    )
    faint = [int(((p[..., 3] > 30) & (p[..., 3] < 80)).sum()) for p in (one, two)]
    assert faint[0] > 3_000
    assert abs(faint[1] - faint[0]) < 0.1 * faint[0]


def test_without_figures_there_are_no_curves() -> None:
    withheld = Figure(None, None, "too few")
    rows = [replace(row, auc=withheld) for row in audit_by_hand().rows]
    assert roc_pictures(rows) == {}
    assert roc_pictures([]) == {}


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
    assert is_drawn(nearest_picture(nearest)), "a typical distance of zero as well"
