"""A teacher's labels of views: what they are, and how they are found again."""

from dataclasses import replace

import pytest
import torch
from made_sets import linear_network
from torch import Tensor

from dd_plugins.synthetic.views import Views
from dd_plugins.training.teacher import Teacher, ViewLabels

VIEWS = Views(count=3, seed=2, smallest=0.3)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("count", [2, 600])
def test_labels_are_the_softmax_of_logits_over_the_temperature(
    count: int, temperature: float
) -> None:
    weight, images = random(5, 16), random(count, 1, 4, 4, seed=1)
    teacher = Teacher(linear_network(weight).eval(), VIEWS, temperature)
    found = teacher.label(images)
    powers = (images.flatten(1).double() @ weight.double().mT / temperature).exp()
    expected = powers / powers.sum(dim=1, keepdim=True)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-3)
    assert not found.requires_grad


@pytest.mark.parametrize("mirror", [False, True])
def test_all_labels_are_those_of_each_view(mirror: bool) -> None:
    images = random(4, 1, 6, 6)
    teacher = Teacher(linear_network(random(2, 36, seed=1)).eval(), VIEWS)
    found = teacher.all_labels(images, mirror=mirror)
    assert found.shape == (3, 4, 2)
    for number in range(3):
        seen = VIEWS.look(images, torch.arange(4), number, mirror=mirror)
        assert torch.equal(found[number], teacher.label(seen))
    plain = teacher.all_labels(images, mirror=not mirror)
    assert not torch.equal(plain, found)


@pytest.mark.parametrize("number", [0, 2, 3, 7])
def test_stored_labels_and_a_teacher_say_the_same_of_a_view(number: int) -> None:
    """Views are counted on without end, and some images may be asked for alone."""
    images = random(5, 1, 6, 6)
    teacher = Teacher(linear_network(random(2, 36, seed=1)).eval(), VIEWS)
    whole = teacher.all_labels(images, mirror=True)
    stored = ViewLabels(VIEWS, whole, None, mirror=True)
    taught = ViewLabels(VIEWS, None, teacher.label, mirror=True)
    indices = torch.tensor([4, 1])
    for labels in (stored, taught):
        seen, given = labels.of(images[indices], indices, number)
        expected = VIEWS.look(images[indices], indices, number % 3, mirror=True)
        assert torch.equal(seen, expected)
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, whole[number % 3, indices].float())
    upright, _ = replace(stored, mirror=False).of(images, torch.arange(5), 1)
    unflipped = VIEWS.look(images, torch.arange(5), 1, mirror=False)
    assert torch.equal(upright, unflipped)
