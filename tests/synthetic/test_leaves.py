"""The learnable set: what is learned, and how its gradient is led back."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dd_plugins.synthetic.leaves import Codec, Leaves, Parameters, Synthetic


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


IMAGES, LABELS = random(4, 2, 3, 3), random(4, 3, seed=1)
CLASSES = torch.tensor([2, 0, 1, 2])


def synthetic(**options: Any) -> Synthetic:
    whole = {"learn_labels": True} | options
    return Synthetic(IMAGES, LABELS, CLASSES, **whole)


def test_leaves_are_the_values_with_no_gradient_yet() -> None:
    made = synthetic(others={"size": torch.tensor(0.5)})
    for _ in range(2):
        leaves = made.decode()
        assert torch.equal(leaves.pixels, IMAGES)
        assert torch.equal(leaves.labels, LABELS)
        assert torch.equal(leaves.classes, CLASSES)
        learned = leaves.learned()
        assert [id(each) for each in learned] == [
            id(each) for each in (leaves.pixels, leaves.labels, leaves.others["size"])
        ]
        assert all(each.is_leaf and each.grad is None for each in learned)
        for each in learned:
            each.grad = torch.ones_like(each)
        made.pull_back(leaves)
    fixed = synthetic(learn_labels=False).decode()
    assert [id(each) for each in fixed.learned()] == [id(fixed.pixels)]


def test_what_leaves_become_keeps_their_classes() -> None:
    made = synthetic(others={"size": torch.tensor(0.5)}).decode()
    doubled = made.map(lambda each: 2 * each)
    assert torch.equal(doubled.pixels, 2 * IMAGES)
    assert torch.equal(doubled.labels, 2 * LABELS)
    assert doubled.others["size"] == 1
    assert torch.equal(doubled.classes, CLASSES)
    assert doubled.pixels.grad_fn is not None
    assert made.detached().learned() == []


def test_any_optimizer_takes_the_parameters() -> None:
    """A gradient of one and a rate of one move everything that is learned by one."""
    made = synthetic(others={"size": torch.tensor(0.5)})
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    for _ in range(2):
        leaves = made.decode()
        for each in leaves.learned():
            each.grad = torch.ones_like(each)
        made.pull_back(leaves)
        optimizer.step()
    moved = made.decode()
    torch.testing.assert_close(moved.pixels.detach(), IMAGES - 2)
    torch.testing.assert_close(moved.labels.detach(), LABELS - 2)
    assert moved.others["size"] == -1.5


def test_parameters_are_a_sequence_in_the_order_of_their_groups() -> None:
    tensors = [torch.tensor(float(number)) for number in range(4)]
    found = Parameters((tensors[0], tensors[1]), (tensors[2],), {"a": tensors[3]})
    assert list(found) == tensors == [found[place] for place in range(4)]
    assert found[1:3] == tensors[1:3]
    assert len(Parameters((tensors[0],))) == 1
    halved = found.map(lambda each: each / 2)
    assert [float(each) for each in halved] == [0, 0.5, 1, 1.5]
    assert (len(halved.images), len(halved.labels), [*halved.others]) == (2, 1, ["a"])


def test_the_set_is_its_own_copy() -> None:
    images, labels, size = IMAGES.clone(), LABELS.clone(), torch.tensor(0.5)
    made = Synthetic(images, labels, CLASSES, learn_labels=True, others={"size": size})
    for each in (images, labels, size):
        each.fill_(9)
    leaves = made.decode()
    assert torch.equal(leaves.pixels, IMAGES)
    assert torch.equal(leaves.labels, LABELS)
    assert leaves.others["size"] == 0.5


BASIS = random(5, 18, seed=5)


def _encode(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    codes = images[::2].flatten(1)
    return {"codes": codes[:, :5], "scales": codes[:, 5:6]}


def _decode(stored: Mapping[str, Tensor]) -> Tensor:
    """Return two images for each stored one, the second of them in negative."""
    positive = torch.sin(stored["codes"] @ BASIS) * stored["scales"]
    return torch.stack([positive, -(positive**3)], dim=1).view(-1, 2, 3, 3)


def _coded(chunk: int | None, fixed: Leaves | None = None) -> Synthetic:
    return Synthetic(
        random(10, 2, 3, 3),
        random(10, 3, seed=1),
        torch.arange(10) % 3,
        learn_labels=True,
        codec=Codec(_encode, _decode, images_per_stored=2, chunk=chunk),
        fixed=fixed,
    )


FIXED = Leaves(
    random(3, 2, 3, 3, seed=7), random(3, 3, seed=8), torch.tensor([0, 1, 2])
)


@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("fixed", [None, FIXED], ids=["alone", "beside others"])
def test_gradients_are_those_of_autograd_through_decoding(
    chunk: int | None, fixed: Leaves | None
) -> None:
    made = _coded(chunk, fixed)
    before = 0 if fixed is None else 3
    weights = random(before + 10, 2, 3, 3, seed=3)
    of_labels = random(before + 10, 3, seed=4)
    leaves = made.decode()
    ((leaves.pixels * weights).sum() + (leaves.labels * of_labels).sum()).backward()
    made.pull_back(leaves)

    stored = {
        name: each.detach().clone().requires_grad_()
        for name, each in made.stored().items()
    }
    (_decode(stored) * weights[before:]).sum().backward()
    found = made.parameters()
    for each, expected in zip(found.images, stored.values(), strict=True):
        torch.testing.assert_close(each.grad, expected.grad)
    (labels,) = found.labels
    torch.testing.assert_close(labels.grad, of_labels[before:])


def test_what_stands_before_is_seen_and_not_learned() -> None:
    made = _coded(2, FIXED)
    leaves = made.decode()
    assert torch.equal(leaves.pixels[:3], FIXED.pixels)
    assert torch.equal(leaves.labels[:3], FIXED.labels)
    assert leaves.classes.tolist() == [0, 1, 2] + [index % 3 for index in range(10)]
    torch.testing.assert_close(leaves.pixels[3:].detach(), _decode(made.stored()))
    assert [len(each) for each in made.parameters()] == [5, 5, 10]
    assert FIXED.pixels.requires_grad is False


def test_a_gradient_replaces_that_of_the_step_before() -> None:
    made = synthetic()
    for value in (1.0, 2.0):
        leaves = made.decode()
        leaves.pixels.grad = torch.full_like(leaves.pixels, value)
        made.pull_back(leaves)
    images, labels = made.parameters()
    assert (images.grad == 2).all()
    assert labels.grad is None, "nobody gave one"


def test_parameters_are_moved_to_what_is_allowed_in_place() -> None:
    def project(stored: Mapping[str, Tensor]) -> None:
        stored["codes"].clamp_(-0.1, 0.1)

    codec = Codec(_encode, _decode, project, images_per_stored=2)
    made = synthetic(codec=codec)
    parameters = list(made.parameters())
    assert parameters[0].abs().max() > 0.1
    scales = parameters[1].clone()
    made.project()
    assert parameters[0].abs().max() == 0.1
    assert torch.equal(parameters[1], scales)
    assert torch.equal(made.stored()["codes"], parameters[0])
    plain = synthetic()
    plain.project()
    assert torch.equal(plain.stored()["images"], IMAGES)


def test_a_restored_set_is_the_same_in_the_same_tensors() -> None:
    """The optimizer holds the tensors: they must not be replaced."""
    others = {"size": torch.tensor(0.5), "shift": torch.zeros(2)}
    codec = Codec(_encode, _decode, images_per_stored=2)
    made, fresh = (synthetic(codec=codec, others=others) for _ in range(2))
    for number, each in enumerate(made.parameters()):
        each.add_(number + 1)
    held = list(fresh.parameters())
    fresh.load_state_dict(made.state_dict())
    assert all(
        one is other for one, other in zip(held, fresh.parameters(), strict=True)
    )
    for one, other in zip(held, made.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_average_has_weights_that_fall_and_sum_to_one(decay: float) -> None:
    made = synthetic(averaging=decay, others={"size": torch.tensor(0.5)})
    first = made.result().decode()
    assert torch.equal(first.pixels, IMAGES)
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    values, labels, sizes = [], [], []
    for step in range(4):
        leaves = made.decode()
        for each in leaves.learned():
            each.grad = torch.full_like(each, float(step**2 + 1))
        made.pull_back(leaves)
        optimizer.step()
        made.follow()
        values.append(made.decode().pixels.detach().clone())
        labels.append(made.decode().labels.detach().clone())
        sizes.append(made.decode().others["size"].detach().clone())
    weights = [decay ** (3 - step) for step in range(4)]
    result = made.result().decode()
    for found, seen in (
        (result.pixels, values), (result.labels, labels), (result.others["size"], sizes)
    ):  # fmt: skip
        pairs = zip(weights, seen, strict=True)
        wanted = sum(weight * each for weight, each in pairs) / sum(weights)
        torch.testing.assert_close(found.detach(), wanted)
    assert torch.equal(made.decode().pixels, values[-1]), "a step starts from the last"

    other = synthetic(averaging=decay, others={"size": torch.tensor(0.5)})
    other.load_state_dict(made.state_dict())
    for one, same in ((made, other), (made.result(), other.result())):
        assert torch.equal(one.decode().pixels, same.decode().pixels)
    for each in (made, other):
        each.follow()
    assert torch.equal(made.result().decode().pixels, other.result().decode().pixels)


def test_average_of_what_a_codec_stores_is_decoded() -> None:
    codec = Codec(
        lambda images, classes: {"halves": images / 2},
        lambda stored: 2 * stored["halves"],
    )
    made = synthetic(averaging=0.5, codec=codec, learn_labels=False)
    (halves,) = made.parameters().images
    made.follow()
    halves.add_(3)
    made.follow()
    expected = IMAGES + 2 * 3 * (2 / 3)  # weights 1/3 and 2/3
    torch.testing.assert_close(made.result().decode().pixels.detach(), expected)
    assert set(made.result().stored()) == {"halves"}
    assert torch.equal(made.result().decode().labels, LABELS)


def test_without_an_average_the_result_is_the_set() -> None:
    made = synthetic()
    made.follow()
    assert made.result() is made
    assert "average" not in made.state_dict()
