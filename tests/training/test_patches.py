"""Crops of real images: which a teacher chooses, and what they are put together to."""

import pytest
import torch
from torch import Tensor, nn

from dd_plugins.api import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.training.patches import PatchChoice

CPU = torch.device("cpu")
LABELS = torch.arange(40) % 2


def images() -> Tensor:
    """Return images of a constant grey each, from dark to bright."""
    grey = torch.linspace(0, 1, 40)
    return grey.view(40, 1, 1, 1).expand(40, 1, 8, 8).contiguous()


def sampler(pixels: Tensor | None = None) -> RealSampler:
    pixels = images() if pixels is None else pixels
    return RealSampler(pixels, LABELS, seed=0, device=CPU)


class Bright(nn.Module):
    """A teacher that is surer of a class, the brighter the whole image is."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Size] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels.shape)
        return torch.zeros(len(pixels), 2) + pixels.mean(dim=(1, 2, 3))[:, None] * (
            torch.tensor([1.0, 0.0])
        )


def choice(**options: object) -> PatchChoice:
    usual: dict[str, object] = {
        "factor": 1,
        "candidates": 300,
        "crops": 3,
        "smallest": 0.3,
        "realism": "best",
        "seed": 0,
    }
    return PatchChoice(**(usual | options))  # type: ignore[arg-type]


def test_the_best_are_those_of_the_least_loss_for_their_class() -> None:
    found = choice().choose([Bright()], sampler(), [3] * 2)
    assert LABELS[found.indices].tolist() == [0, 0, 0, 1, 1, 1]
    assert found.indices[:3].tolist() == [38, 36, 34], "the brightest of class 0"
    assert found.indices[3:].tolist() == [1, 3, 5], "the darkest of class 1"


def test_medium_ones_lie_around_the_median() -> None:
    found = choice(realism="medium").choose([Bright()], sampler(), [2] * 2)
    greys = images()[:, 0, 0, 0]
    for label in (0, 1):
        own = found.indices[LABELS[found.indices] == label]
        rank = [sorted(greys[label == LABELS].tolist()).index(greys[i]) for i in own]
        assert sorted(rank) in ([8, 9], [9, 10], [10, 11])


def test_teachers_vote_by_the_mean_of_their_losses() -> None:
    class Dark(Bright):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(-3 * pixels)

    grey = images()[:, 0, 0, 0].double()

    def loss(difference: Tensor) -> Tensor:
        return (1 + (-difference).exp()).log()

    expected = []
    for label, sign in ((0, 1), (1, -1)):
        mean = (loss(sign * grey) + loss(-3 * sign * grey)) / 2
        expected.append(int(mean.masked_fill(label != LABELS, torch.inf).argmin()))
    found = choice().choose([Bright(), Dark()], sampler(), [1] * 2).indices
    assert found.tolist() == expected
    assert (
        found.tolist()
        != choice().choose([Bright()], sampler(), [1] * 2).indices.tolist()
    )


def test_only_some_candidates_are_looked_at_but_as_many_as_are_needed() -> None:
    for candidates, wanted, looked_at in ((5, 2, 5), (5, 8, 8), (300, 2, 20)):
        teacher = Bright()
        choice(candidates=candidates).choose([teacher], sampler(), [wanted] * 2)
        assert sum(shape[0] for shape in teacher.seen) == 2 * 3 * looked_at


def test_the_best_crop_of_an_image_is_where_the_teacher_looks() -> None:
    """One corner is bright: the crop that shows most of it wins."""
    pixels = torch.zeros(40, 1, 8, 8)
    pixels[:, :, :4, :4] = 1.0
    many = choice(crops=40, smallest=0.2).choose([Bright()], sampler(pixels), [2] * 2)
    made = many.images(lambda indices: pixels[indices])
    brightness = made.mean(dim=(1, 2, 3))
    assert (brightness[:2] > 0.7).all(), "class 0 is bright"
    assert (brightness[2:] < 0.1).all(), "class 1 is dark"


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_crops_are_put_together_row_by_row(factor: int) -> None:
    found = choice(factor=factor, crops=1).choose([Bright()], sampler(), [1] * 2)
    each = factor**2
    assert len(found.indices) == 2 * each
    made = found.images(lambda indices: images()[indices])
    assert made.shape == (2, 1, 8, 8)
    side = 8 // factor
    for number in range(2):
        for place in range(each):
            row, column = divmod(place, factor)
            tile = made[number, 0][
                row * side : (row + 1) * side, column * side : (column + 1) * side
            ]
            grey = images()[found.indices[number * each + place], 0, 0, 0]
            torch.testing.assert_close(tile, grey.expand(side, side))
    assert found.first_indices.tolist() == found.indices[::each].tolist()


def test_a_crop_is_scored_as_large_as_it_will_be() -> None:
    class Middle(Bright):
        def forward(self, pixels: Tensor) -> Tensor:
            expected = torch.zeros(8, 8, dtype=torch.bool)
            expected[2:6, 2:6] = True
            assert ((pixels > 0) == expected).all()
            return super().forward(pixels)

    bright = images() + 1
    choice(factor=2).choose([Middle()], sampler(bright), [1] * 2)


def test_each_image_has_crops_of_all_ranks() -> None:
    found = choice(factor=2).choose([Bright()], sampler(), [2] * 2)
    brightest = [38, 36, 34, 32, 30, 28, 26, 24]
    assert found.indices[:8].tolist() == brightest[::2] + brightest[1::2]
    assert found.first_indices.tolist() == [38, 36, 1, 3]


def test_a_crop_that_shrinks_is_a_mean_of_its_pixels() -> None:
    """As published: without antialiasing only some pixels would be seen."""
    stripes = torch.zeros(40, 1, 8, 8)
    stripes[..., ::4] = 1.0  # one column of four
    whole = choice(factor=4, smallest=1.0, crops=1)
    made = whole.choose([Bright()], sampler(stripes), [1] * 2).images(
        lambda indices: stripes[indices]
    )
    assert made.mean() == pytest.approx(0.25, abs=0.02)


def test_real_images_are_read_in_parts() -> None:
    read: list[int] = []
    pixels = torch.rand(1, 1, 8, 8).expand(600, 1, 8, 8)

    def counted(indices: Tensor) -> Tensor:
        read.append(len(indices))
        return pixels[indices]

    real = RealSampler(pixels, torch.arange(600) % 2, seed=0, device=CPU)
    found = choice(factor=2, crops=1).choose([Bright()], real, [75] * 2)
    assert len(found.images(counted)) == 150
    assert read == [500, 100]


def test_the_same_seed_chooses_the_same() -> None:
    noise = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    one, again, other = (
        choice(seed=seed).choose([Bright()], sampler(noise), [4] * 2)
        for seed in (0, 0, 1)
    )
    read = noise.__getitem__
    assert torch.equal(one.images(read), again.images(read))
    assert not torch.equal(one.images(read), other.images(read))


def test_too_few_images_are_told() -> None:
    told = r"^6 images per class .* 4 real ones each, .* only 20 .*; choose at most 5$"
    with pytest.raises(OptionError, match=told):
        choice(factor=2).choose([Bright()], sampler(), [6] * 2)
    told = r"^1 image per class .* 64 real ones each, .* only 20 .*; too few for one$"
    with pytest.raises(OptionError, match=told):
        choice(factor=4).choose([Bright()], sampler(), [4] * 2, each=4)


def test_classes_may_have_unequal_numbers() -> None:
    found = choice(crops=1).choose([Bright()], sampler(), [3, 1])
    assert LABELS[found.indices].tolist() == [0, 0, 0, 1]
    none = choice(crops=1).choose([Bright()], sampler(), [0, 2])
    assert LABELS[none.indices].tolist() == [1, 1]
