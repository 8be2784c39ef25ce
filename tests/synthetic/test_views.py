"""Views: where the crops lie, told by images whose pixels say their own place."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dd_plugins.errors import OptionError
from dd_plugins.synthetic.views import Views, get_views


def places(height: int, width: int) -> Tensor:
    """Return an image whose two channels are the row and the column of each pixel."""
    rows = torch.arange(height).float().view(-1, 1).expand(height, width)
    columns = torch.arange(width).float().view(1, -1).expand(height, width)
    return torch.stack([rows, columns])


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int
    flipped: bool


def boxes(
    views: Views, height: int, width: int, *, mirror: bool = False, images: int = 4
) -> list[Box]:
    """Return the boxes of all views of some images, in order."""
    given = places(height, width).expand(images, -1, -1, -1)
    found = []
    for number in range(views.count):
        for seen in views.look(given, torch.arange(images), number, mirror=mirror):
            low, high = seen.amin(dim=(1, 2)), seen.amax(dim=(1, 2))
            size = (high - low + 1).round().int().tolist()
            corner = low.round().int().tolist()
            across = bool(seen[1, 0, 0] > seen[1, 0, -1])
            assert seen[0, 0, 0] <= seen[0, -1, 0], "never upside down"
            found.append(Box(*corner, *size, across))
    return found


def test_crops_lie_anywhere_and_have_moderate_shapes() -> None:
    found = boxes(Views(count=100, smallest=0.1), 40, 40)
    assert {box.top for box in found} >= {0, 5, 10, 15}
    assert {box.left for box in found} >= {0, 5, 10, 15}
    assert any(box.top + box.height == 40 for box in found)
    assert any(box.left + box.width == 40 for box in found)
    small = [box for box in found if max(box.height, box.width) < 40]
    ratios = [box.width / box.height for box in small]
    rounding = 1.5 / min(min(box.height, box.width) for box in small)
    assert 3 / 4 * (1 - rounding) <= min(ratios) < 0.85
    assert 1.2 < max(ratios) <= 4 / 3 * (1 + rounding)
    assert not any(box.flipped for box in found)


@pytest.mark.parametrize("smallest", [0.08, 0.3, 0.7])
def test_areas_are_drawn_evenly_down_to_the_smallest(smallest: float) -> None:
    found = boxes(Views(count=100, smallest=smallest), 40, 40)
    areas = torch.tensor([box.height * box.width / 1600 for box in found])
    assert areas.min() >= smallest - 0.03
    assert areas.min() <= smallest + 0.1
    below = float((areas < (1 + smallest) / 2).float().mean())
    assert 0.38 < below < 0.65


def test_no_crop_is_smaller_than_the_smallest() -> None:
    for smallest in (0.9, 1.0):
        found = boxes(Views(count=20, smallest=smallest), 40, 40)
        areas = [box.height * box.width / 1600 for box in found]
        assert min(areas) >= smallest - 0.02


def test_half_of_the_crops_are_flipped_where_that_is_allowed() -> None:
    views = Views(count=75, smallest=0.2)
    upright, mirrored = (
        boxes(views, 20, 20, mirror=mirror) for mirror in (False, True)
    )
    assert [box[:4] for box in upright] == [box[:4] for box in mirrored]
    flipped = sum(box.flipped for box in mirrored)
    assert math.isclose(flipped / len(mirrored), 0.5, abs_tol=0.1)


def test_images_and_views_have_boxes_of_their_own() -> None:
    views = Views(count=10, smallest=0.08)
    found = boxes(views, 40, 40)
    assert len(set(found)) > 35
    assert boxes(Views(count=5, smallest=0.08), 40, 40) == found[:20], "of any count"
    assert boxes(Views(count=10, seed=1, smallest=0.08), 40, 40) != found


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (2, 3), (30, 10)])
def test_images_of_any_size_are_seen(height: int, width: int) -> None:
    for box in boxes(Views(count=40), height, width):
        assert 1 <= box.height <= height
        assert 1 <= box.width <= width
        assert 0 <= box.top <= height - box.height
        assert 0 <= box.left <= width - box.width


@pytest.mark.parametrize("count", [2, 3, 10])
def test_each_image_is_the_partner_of_another(count: int) -> None:
    views = Views(count=5, mix="mixup")
    found = [views.partners(count, number).tolist() for number in range(5)]
    for partners in found:
        assert sorted(partners) == list(range(count))
        assert all(own != partner for own, partner in enumerate(partners))
    if count == 10:
        assert len(set(map(tuple, found))) == 5, "anew in each view"


def test_shares_are_drawn_from_beta() -> None:
    images = torch.eye(2).view(2, 2, 1, 1).expand(2, 2, 4, 4)
    for alpha, expected in ((1.0, 1 / 12), (0.8, 1 / (4 * 2.6)), (50.0, 1 / 404)):
        views = Views(count=300, mix="mixup", alpha=alpha)
        shares = torch.stack(
            [
                views.look(images, torch.tensor([0]), number, mirror=False)[0, 0, 0, 0]
                for number in range(300)
            ]
        )
        assert float(shares.mean()) == pytest.approx(0.5, abs=0.06)
        assert float(shares.var()) == pytest.approx(expected, rel=0.25)


def test_a_mixed_view_does_not_depend_on_who_else_is_looked_at() -> None:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for mix in ("cutmix", "mixup"):
        views = Views(count=2, mix=mix)  # type: ignore[arg-type]
        whole = views.look(images, torch.arange(6), 1, mirror=True)
        for some in ([3], [5, 0]):
            found = views.look(images, torch.tensor(some), 1, mirror=True)
            assert torch.equal(found, whole[some])
        plain = Views(count=2).look(images, torch.arange(6), 1, mirror=True)
        assert not torch.equal(whole, plain)


def test_a_partner_among_the_images_is_cropped_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cropped: list[int] = []
    crop = Views._crop

    def counted(self: Views, image: Tensor, *given: Any) -> Tensor:
        cropped.append(len(image))
        return crop(self, image, *given)

    monkeypatch.setattr(Views, "_crop", counted)
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    views = Views(count=3, mix="cutmix")
    whole = views.look(images, torch.arange(6), 1, mirror=True)
    assert len(cropped) == 6
    for index in range(6):
        alone = views.look(images, torch.tensor([index]), 1, mirror=True)
        assert torch.equal(alone[0], whole[index])
    assert len(cropped) == 6 + 2 * 6


def test_padded_crops_are_shifted_by_an_eighth() -> None:
    given = (places(16, 16) + 1).expand(60, -1, -1, -1)
    seen = Views(count=1, crop="padded").look(given, torch.arange(60), 0, mirror=False)
    middle = seen[:, :, 8, 8] - 9
    assert set(middle[:, 0].tolist()) == {-2, -1, 0, 1, 2}
    assert set(middle[:, 1].tolist()) == {-2, -1, 0, 1, 2}
    assert (seen == 0).any(), "what comes from outside is zero"


def test_views_are_a_spec() -> None:
    views = Views(count=7, seed=-3, smallest=0.5, crop="padded", mix="mixup", alpha=0.5)
    assert get_views(repr(views)) == views
    assert get_views("views(count=2)") == Views(count=2, seed=0, smallest=0.08)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("views", "count"),
        ("views(count=0)", "count"),
        ("views(count=2, smallest=0.0)", "smallest"),
        ("views(count=2, smallest=1.5)", "1.5"),
        ("views(count=2, mix='blend')", "blend"),
        ("views(count=2, alpha=0.0)", "alpha"),
        ("recipe(steps=3)", "recipe"),
        ("views(3)", "views"),
    ],
)
def test_what_no_views_are_is_refused(spec: str, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        get_views(spec)
