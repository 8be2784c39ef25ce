"""Labels of views while networks are trained: whose, of which view, how often asked."""

import pytest
import torch
from torch import Tensor

from dd_plugins.synthetic.views import Views
from dd_plugins.training import view_labels
from dd_plugins.training.view_labels import ViewLabels, hard_labels

VIEWS = Views(count=3, seed=2, smallest=0.3)
IMAGES = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Asked:
    """Labels that say their view and image, and note what was asked."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, images: Tensor, number: int) -> Tensor:
        self.numbers.append(number)
        rows = torch.arange(len(images)).half()
        return torch.stack([rows, torch.full_like(rows, number)], dim=1)


@pytest.mark.parametrize("number", [0, 2, 3, 7])
def test_views_are_counted_on_without_end(number: int) -> None:
    indices = torch.tensor([4, 1])
    seen, labels = ViewLabels(VIEWS, Asked(), mirror=True).of(IMAGES, indices, number)
    expected = VIEWS.look(IMAGES, indices, number % 3, mirror=True)
    assert torch.equal(seen, expected)
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[4.0, number % 3], [1.0, number % 3]]


def test_images_are_flipped_only_where_the_data_allow_it() -> None:
    everything = torch.arange(5)
    upright, _ = ViewLabels(VIEWS, Asked(), mirror=False).of(IMAGES, everything, 1)
    assert torch.equal(upright, VIEWS.look(IMAGES, everything, 1, mirror=False))
    flipped, _ = ViewLabels(VIEWS, Asked(), mirror=True).of(IMAGES, everything, 1)
    assert not torch.equal(upright, flipped)


@pytest.mark.parametrize("room", [True, False])
def test_the_labels_of_a_view_are_asked_for_once_if_there_is_room(
    room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not room:
        monkeypatch.setattr(view_labels, "_MOST_REMEMBERED", 10)
    asked = Asked()
    labels = ViewLabels(VIEWS, asked, mirror=True)
    for number in (0, 0, 1, 2, 3, 4):
        labels.of(IMAGES, torch.tensor([0]), number)
    assert asked.numbers == ([0, 1, 2] if room else [0, 1, 2, 0, 1])


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
def test_hard_labels_are_those_of_the_pixels(mix: str) -> None:
    """Images are of one colour each, so the mean of a view tells its shares."""
    classes = torch.arange(6)
    images = classes.float().view(6, 1, 1, 1).expand(6, 1, 16, 16)
    views = Views(count=4, mix=mix)  # type: ignore[arg-type]
    one_hot = torch.eye(6)
    label = hard_labels(views, one_hot)
    for number in range(4):
        seen = views.look(images, classes, number, mirror=True)
        found = label(images, number)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(6))
        shown = (found * classes).sum(dim=1)
        torch.testing.assert_close(seen.mean(dim=(1, 2, 3)), shown)
        assert torch.equal(found, one_hot) == (mix == "none")
