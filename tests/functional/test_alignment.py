import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from dd_plugins.functional import alignment
from dd_plugins.runtime.randomness import generator_for


def _random(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator_for(0, "maps"), dtype=torch.float64)


def test_variance_is_numpy_s_over_the_architectures() -> None:
    maps = _random(3, 2, 4, 4)
    expected = maps.numpy().var(axis=0).mean()
    assert alignment.variance(maps).item() == pytest.approx(expected)
    assert alignment.variance(maps[:1].expand(3, -1, -1, -1)).item() == pytest.approx(0)


def test_overlap_equals_a_loop_over_images() -> None:
    maps = _random(3, 2, 4, 4)
    expected = []
    for image in range(2):
        gates = 1 / (1 + np.exp(-10 * (maps[:, image].numpy() - 0.4)))
        expected.append(1 - gates.prod(axis=0).sum() / gates.max(axis=0).sum())
    found = alignment.map_overlap_loss(maps, threshold=0.4).item()
    assert found == pytest.approx(np.mean(expected))


def test_overlap_is_nothing_for_equal_clear_maps() -> None:
    clear = (_random(1, 2, 8, 8) > 0.5).double().expand(3, -1, -1, -1)
    assert alignment.map_overlap_loss(clear).item() < 0.05
    apart = torch.stack([clear[0], 1 - clear[0]])
    assert alignment.map_overlap_loss(apart).item() > 0.9


def test_presence_falls_with_what_is_seen() -> None:
    maps = _random(2, 2, 4, 4)
    found = alignment.map_presence_loss(maps).item()
    assert found == pytest.approx(1 - maps.numpy().mean())


def test_logit_losses_equal_their_definitions() -> None:
    logits, teacher = 4 * _random(3, 5, 7), 4 * _random(5, 7).flip(0)
    classes = torch.tensor([0, 6, 2, 2, 1])
    rows = log_softmax(logits.numpy(), axis=-1)
    wanted = -np.mean([rows[:, image, label] for image, label in enumerate(classes)])
    found = alignment.agreement_with_labels(logits, classes).item()
    assert found == pytest.approx(wanted)

    hot = log_softmax(teacher.numpy() / 2, axis=-1)
    soft = log_softmax(logits.numpy() / 2, axis=-1)
    divergence = 4 * (np.exp(hot) * (hot - soft)).sum(axis=-1).mean()
    found = alignment.distillation_loss(logits, teacher, temperature=2.0).item()
    assert found == pytest.approx(divergence)
    same = alignment.distillation_loss(teacher[None], teacher).item()
    assert same == pytest.approx(0, abs=1e-12)


def test_gradient_of_the_variance_treats_its_mean_as_constant() -> None:
    """So one network at a time gives the exact gradient."""
    maps = _random(3, 2, 4, 4).requires_grad_()
    (exact,) = torch.autograd.grad(alignment.variance(maps), maps)
    mean = maps.detach().mean(dim=0)
    expected = 2 * (maps.detach() - mean) / maps.numel()
    torch.testing.assert_close(exact, expected)


def test_class_means_are_compared_class_by_class() -> None:
    features, means = _random(5, 3), 2 * _random(4, 3)
    classes = torch.tensor([2, 0, 2, 0, 2])  # classes 1 and 3 do not occur
    values, kept = features.numpy(), classes.numpy()
    expected = np.mean(
        [(values[kept == c].mean(0) - means.numpy()[c]) ** 2 for c in (0, 2)]
    )
    found = alignment.class_mean_distance(features, classes, means).item()
    assert found == pytest.approx(expected)
