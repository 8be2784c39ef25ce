"""A teacher's labels of views: what they are, in groups, and of several networks."""

import pytest
import torch
from made_sets import linear_network
from torch import Tensor, nn

from dd_plugins.errors import OptionError
from dd_plugins.synthetic.views import Views
from dd_plugins.training.kept_networks import TrainedNetwork
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.teacher import Teacher

VIEWS = Views(count=3, seed=2, smallest=0.3)
WHOLE = Views(count=2, smallest=1.0)  # every view is the image itself


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(logits: Tensor) -> Tensor:
    powers = logits.double().exp()
    return powers / powers.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("count", [2, 600])
def test_labels_are_the_softmax_of_logits_over_the_temperature(
    count: int, temperature: float
) -> None:
    weight, images = random(5, 16), random(count, 1, 4, 4, seed=1)
    teacher = Teacher([linear_network(weight).eval()], WHOLE, temperature)
    found = teacher.label(images, 0, mirror=False)
    expected = softmax(images.flatten(1) @ weight.mT / temperature)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-3)
    assert not found.requires_grad


@pytest.mark.parametrize("mirror", [False, True])
def test_all_labels_are_those_of_each_view(mirror: bool) -> None:
    images, weight = random(4, 1, 6, 6), random(2, 36, seed=1)
    teacher = Teacher([linear_network(weight).eval()], VIEWS)
    found = teacher.all_labels(images, mirror=mirror)
    assert found.shape == (3, 4, 2)
    for number in range(3):
        seen = VIEWS.look(images, torch.arange(4), number, mirror=mirror)
        expected = softmax(seen.flatten(1) @ weight.mT)
        torch.testing.assert_close(
            found[number].double(), expected, atol=1e-3, rtol=1e-2
        )
    plain = teacher.all_labels(images, mirror=not mirror)
    assert not torch.equal(plain, found)


def test_several_teachers_are_averaged_by_their_logits() -> None:
    images, weights = random(7, 1, 4, 4), [random(3, 16, seed=n) for n in (1, 2)]
    modules = [linear_network(weight).eval() for weight in weights]
    found = Teacher(modules, WHOLE, 2.0).label(images, 1, mirror=False)
    mean = images.flatten(1) @ (weights[0] + weights[1]).mT / 2
    torch.testing.assert_close(found.double(), softmax(mean / 2), atol=1e-3, rtol=1e-2)


class Normalised(nn.Module):
    """BatchNorm whose running statistics are far from those of any batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)
        self.norm.running_mean.fill_(100.0)  # type: ignore[union-attr]
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return self.norm(images).flatten(1)[:, :3]  # type: ignore[no-any-return]


def test_groups_are_normalised_by_their_own_statistics() -> None:
    images, module = random(10, 1, 4, 4), Normalised().eval()
    teacher = Teacher([module], WHOLE, group=4)
    found = teacher.label(images, 0, mirror=False)
    assert sorted(module.seen) == [5, 5], "no group is smaller than was asked for"
    order = WHOLE.order(10, 0)
    for group in (order[:5], order[5:]):
        part = images[group].double()
        deviation = (part.var(correction=0) + 1e-5).sqrt()
        expected = softmax(((part - part.mean()) / deviation).flatten(1)[:, :3])
        torch.testing.assert_close(
            found[group].double(), expected, atol=1e-3, rtol=1e-2
        )
    norm = module.norm
    assert (norm.running_mean, norm.training) == (torch.tensor([100.0]), False)
    assert (norm.momentum, int(norm.num_batches_tracked)) == (0.1, 0)  # type: ignore[arg-type]
    other = teacher.label(images, 1, mirror=False)
    assert not torch.equal(found, other), "each view has groups of its own"


def test_real_statistics_are_taken_unless_groups_are_asked_for() -> None:
    images, module = random(4, 1, 4, 4), Normalised().eval()
    found = Teacher([module], WHOLE).label(images, 0, mirror=False)
    expected = softmax((images.flatten(1)[:, :3] - 100) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=1e-2)


def test_a_teacher_without_batch_norm_has_no_groups() -> None:
    teacher = Teacher([linear_network(random(2, 16)).eval()], WHOLE, group=2)
    with pytest.raises(OptionError, match="without BatchNorm"):
        teacher.label(random(4, 1, 4, 4), 0, mirror=False)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperatures_are_above_zero(temperature: float) -> None:
    with pytest.raises(OptionError, match="temperature must be above 0"):
        Teacher([nn.Identity()], WHOLE, temperature)


@pytest.mark.parametrize("group", [1, 0, -3])
def test_a_group_has_statistics(group: int) -> None:
    with pytest.raises(OptionError, match=f"at least 2 images.*{group}"):
        Teacher([nn.Identity()], WHOLE, group=group)


def test_the_record_names_each_teacher() -> None:
    from dd_plugins.networks.mlp import MLP

    keys = tuple(
        TrainedNetwork(MLP(width=8), Recipe(steps=steps), seed).record()
        for steps, seed in ((3, 0), (4, 7))
    )
    modules = [nn.Identity()] * 2
    record = Teacher(modules, VIEWS, 3.0, group=5, kept=keys).record()
    assert (record.views, record.temperature, record.group) == (repr(VIEWS), 3.0, 5)
    named = [(each.network, each.recipe, each.seed) for each in record.teachers]
    assert named == [
        ("mlp(width=8)", "recipe(steps=3)", 0),
        ("mlp(width=8)", "recipe(steps=4)", 7),
    ]
    assert Teacher(modules, VIEWS).record().teachers == []
