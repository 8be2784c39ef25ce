import numpy as np
import pytest
import torch

from dd_plugins.functional.matching import gradient_distance, mean_feature_distance


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_gradient_distance_is_one_minus_cosine_summed_over_output_units() -> None:
    shapes = [(4, 3, 3, 3), (4,), (5, 16), (5,)]
    real = [_random(*shape, seed=1) for shape in shapes]
    synthetic = [_random(*shape, seed=2) for shape in shapes]
    expected = 0.0
    for one, other in zip(real, synthetic, strict=True):
        if one.ndim == 1:
            continue
        for row, column in zip(
            one.numpy().reshape(len(one), -1),
            other.numpy().reshape(len(other), -1),
            strict=True,
        ):
            lengths = np.sqrt(row @ row) * np.sqrt(column @ column)
            expected += 1 - row @ column / (lengths + 1e-6)
    assert gradient_distance(real, synthetic).item() == pytest.approx(expected)


def test_gradient_distance_knows_no_length() -> None:
    gradient = [_random(4, 7)]
    longer = [3 * gradient[0]]
    assert gradient_distance(gradient, longer).item() == pytest.approx(0, abs=1e-5)
    opposite = gradient_distance(gradient, [-gradient[0]]).item()
    assert opposite == pytest.approx(8, abs=1e-5)


def test_mean_feature_distance_equals_numpy_s() -> None:
    real, synthetic = _random(30, 6, seed=1), _random(3, 6, seed=2)
    difference = real.numpy().mean(axis=0) - synthetic.numpy().mean(axis=0)
    found = mean_feature_distance(real, synthetic).item()
    assert found == pytest.approx(difference @ difference)
