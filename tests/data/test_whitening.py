"""A whitening matrix in few bytes."""

import re

import pytest
import torch
from torch import Tensor

from dd_plugins.data import whitening
from dd_plugins.data.whitening import CompactMatrix, why_not_whitened

SHAPE = (2, 5, 6)


def whitened(smooth: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the whitening matrix and the covariance of smooth images."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, *SHAPE, generator=generator, dtype=torch.float64)
    images = noise + smooth * torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    images[:, 1] += images[:, 0]
    flat = images.flatten(1)
    covariance = flat.mT @ flat / 400 + 0.01 * torch.eye(60, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.rsqrt()) @ vectors.mT, covariance


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((3, 40, 40), None),
        ((3, 1, 64), None),
        ((1, 66, 2), None),
        ((3, 41, 40), "whitening so many values takes long"),
        ((1, 65, 65), "whitening needs sides divisible by 2"),
        ((1, 20, 65), "whitening needs sides divisible by 2"),
        ((3, 1, 200), "whitening needs sides divisible by 4"),
    ],
)
def test_images_are_whitened_unless_their_size_is_against_it(
    shape: tuple[int, int, int], why: str | None
) -> None:
    assert why_not_whitened(shape) == why


def test_with_all_entries_it_is_the_matrix_to_half_precision(monkeypatch) -> None:
    monkeypatch.setattr(whitening, "_PER_ROW", 60)
    matrix, covariance = whitened()
    found = CompactMatrix.of(matrix, covariance, SHAPE)
    assert found.places.numel() == 60 * 59 // 2
    error = (found.matrix().double() - matrix).norm() / matrix.norm()
    assert error < 1e-3


def test_few_entries_in_the_cosine_basis_come_close(monkeypatch) -> None:
    matrix, covariance = whitened(4.0)
    monkeypatch.setattr(whitening, "_PER_ROW", 3)
    monkeypatch.setattr(whitening, "_MOST_LOST", 1.0)
    found = CompactMatrix.of(matrix, covariance, SHAPE)
    error = (found.matrix().double() - matrix).norm() / matrix.norm()
    sizes = matrix.abs().flatten().sort(descending=True).values
    cut = matrix * (matrix.abs() >= sizes[60 + 2 * 180])  # as many, among pixels
    assert error < 0.5 * (cut - matrix).norm() / matrix.norm()


def test_images_that_are_not_smooth_keep_as_many_entries_as_they_need(
    monkeypatch,
) -> None:
    matrix, covariance = whitened(4.0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    matrix, covariance = (each[order][:, order] for each in (matrix, covariance))
    monkeypatch.setattr(whitening, "_PER_ROW", 2)
    found = CompactMatrix.of(matrix, covariance, SHAPE)
    assert found.places.numel() > 2 * 60
    root = torch.linalg.cholesky(covariance)
    lost = ((found.matrix().double() - matrix) @ root).norm() / (matrix @ root).norm()
    assert lost <= 0.1


def test_more_than_the_diagonal_is_kept_where_it_loses_too_much(monkeypatch) -> None:
    monkeypatch.setattr(whitening, "_PER_ROW", 0)
    monkeypatch.setattr(whitening, "_MOST_LOST", 1e-3)
    found = CompactMatrix.of(*whitened(4.0), SHAPE)
    assert found.places.numel() >= 60


def test_it_is_positive_definite_even_if_few_entries_are_not(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.linalg.qr(
        torch.randn(60, 60, generator=generator, dtype=torch.float64)
    ).Q
    values = torch.logspace(-3, 1, 60, dtype=torch.float64)
    matrix = (vectors * values) @ vectors.mT  # of no smooth images
    monkeypatch.setattr(whitening, "_PER_ROW", 1)
    found = CompactMatrix.of(matrix, matrix, SHAPE)
    assert torch.linalg.eigvalsh(found.matrix().double())[0] > 0
    assert found.places.numel() > 60


def test_it_is_rebuilt_bit_for_bit_from_its_tensors() -> None:
    found = CompactMatrix.of(*whitened(), SHAPE)
    again = CompactMatrix.from_tensors(found.tensors())
    assert torch.equal(again.matrix(), found.matrix())
    assert torch.equal(found.matrix(), found.matrix().mT)


def test_a_matrix_that_no_memory_holds_is_refused() -> None:
    tensors = CompactMatrix.of(*whitened(), SHAPE).tensors()
    huge = {"diagonal": torch.ones(1).expand(10**6, 64, 64)}
    huge["colours"] = torch.ones(1).expand(10**6, 10**6)
    with pytest.raises(ValueError, match="4,096,000,000 rows"):
        CompactMatrix.from_tensors(tensors | huge)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("places", lambda each: each.flip(0), "ascending places"),
        ("places", lambda each: each + 61 * 60, "places above the diagonal"),
        ("places", lambda each: each - each[0], "places above the diagonal"),
        ("places", lambda each: each.long(), "places of torch.int32"),
        ("entries", lambda each: each[1:], "entries of torch.float16"),
        ("diagonal", lambda each: each[0], "diagonal with 3 dimensions"),
        ("diagonal", lambda each: each[..., None], "diagonal with 3 dimensions"),
        ("diagonal", lambda each: each[:, :0], "diagonal with 3 dimensions"),
        ("diagonal", lambda each: torch.ones(2, 65, 1), "at most 64 pixels"),
        ("colours", lambda each: each[0, 0], "colours with 2 dimensions"),
        ("colours", lambda each: 2 * each, "orthogonal colours"),
    ],
)
def test_tensors_of_another_form_are_refused(name, change, told) -> None:
    tensors = CompactMatrix.of(*whitened(), SHAPE).tensors()
    with pytest.raises(ValueError, match=re.escape(told)):
        CompactMatrix.from_tensors(tensors | {name: change(tensors[name])})
