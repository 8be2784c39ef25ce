import numpy as np
import torch
from scipy.fft import dctn, idctn

from dd_plugins.functional.cosine import (
    cosine_basis,
    cosine_transform,
    inverse_cosine_transform,
)

COLOURS = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
IMAGES = torch.rand(4, 3, 5, 8, dtype=torch.float64)


def test_the_basis_is_orthonormal_and_starts_with_the_slowest_wave() -> None:
    basis = cosine_basis(7, like=IMAGES)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(7, dtype=torch.float64))
    assert [int((wave.diff().sign().diff() != 0).sum()) for wave in basis[1:3]] == [
        0,
        1,
    ]


def test_coefficients_are_those_of_scipy_on_mixed_channels() -> None:
    found = cosine_transform(IMAGES, COLOURS)
    mixed = np.einsum("kc,nchw->nkhw", COLOURS.numpy(), IMAGES.numpy())
    np.testing.assert_allclose(
        found.numpy(), dctn(mixed, type=2, norm="ortho", axes=(2, 3)), atol=1e-12
    )


def test_the_inverse_is_that_of_scipy_and_gives_the_images_back() -> None:
    plain = torch.eye(3, dtype=torch.float64)
    np.testing.assert_allclose(
        inverse_cosine_transform(IMAGES, plain).numpy(),
        idctn(IMAGES.numpy(), type=2, norm="ortho", axes=(2, 3)),
        atol=1e-12,
    )
    there = cosine_transform(IMAGES, COLOURS)
    torch.testing.assert_close(inverse_cosine_transform(there, COLOURS), IMAGES)
