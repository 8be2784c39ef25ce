"""Packed images: order, upsampling and gradient, against loops in float64."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.networks.mlp import MLP
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Synthetic
from dd_plugins.synthetic.parametrizations.base import Identity
from dd_plugins.synthetic.parametrizations.packed import Packed, _extended

CPU = torch.device("cpu")
PLAIN = Transform.identity(2)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def whitening(channels: int, height: int, width: int) -> Transform:
    """Return a map to a whitened space, in float64."""
    size = channels * height * width
    matrix = random(size, size, seed=9)
    return Transform(
        random(channels),
        random(channels, seed=1).exp(),
        random(size, seed=2),
        torch.eye(size).double() + (matrix @ matrix.mT) / size,
    )


def enlarged(small: np.ndarray, tall: int, wide: int) -> np.ndarray:
    """Return a picture of one channel, bilinearly enlarged by a loop over its pixels.

    Pixel centres lie at halves, and beyond the outermost centre its value goes on.
    """
    height, width = small.shape
    large = np.empty((tall, wide))
    for row in range(tall):
        for column in range(wide):
            y = min(max((row + 0.5) * height / tall - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / wide - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = small[top, left] * (1 - x + left) + small[top, right] * (x - left)
            lower = small[bottom, left] * (1 - x + left) + small[bottom, right] * (
                x - left
            )
            large[row, column] = upper * (1 - y + top) + lower * (y - top)
    return large


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize(
    ("factor", "height", "width"), [(2, 4, 6), (3, 6, 3), (3, 8, 5)]
)
def test_each_cell_of_a_grid_is_enlarged_row_by_row(
    factor: int, height: int, width: int, whitened: bool
) -> None:
    transform = whitening(2, height, width) if whitened else PLAIN
    grids = random(3, 2, height, width, seed=4)
    found = Packed(factor=factor).decode({"grids": grids}, transform)
    rows, columns = -(-height // factor), -(-width // factor)
    expected = []
    for grid in grids.numpy():
        # Beyond the edge the last pixel goes on.
        more = (factor * rows - height, factor * columns - width)
        whole = np.pad(grid, ((0, 0), (0, more[0]), (0, more[1])), mode="edge")
        for top in range(0, factor * rows, rows):
            for left in range(0, factor * columns, columns):
                cell = whole[:, top : top + rows, left : left + columns]
                large = np.stack([enlarged(each, height, width) for each in cell])
                if transform.centre is not None and transform.whitening is not None:
                    flat = large.reshape(-1) - transform.centre.numpy()
                    large = (flat @ transform.whitening.numpy()).reshape(large.shape)
                expected.append(large)
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-10)


@pytest.mark.parametrize("factor", [2, 4])
def test_images_are_packed_in_the_order_in_which_they_are_unpacked(factor: int) -> None:
    """Images of one value each neither lose by averaging nor by enlarging."""
    count = 3 * factor**2
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 2, 8, 8)
    packed = Packed(factor=factor)
    grids = packed.encode(images, PLAIN)
    assert grids.shape == (3, 2, 8, 8)
    assert torch.equal(packed.decode({"grids": grids}, PLAIN), images)


def test_packing_averages_standardised_pixels_and_not_whitened_values() -> None:
    images = torch.rand(50, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    transform = Transform.fit(images, "zca")
    grids = Packed(factor=2).encode(transform(images[:4]), transform)
    mean, deviation = (
        each.view(2, 1, 1) for each in (transform.mean, transform.deviation)
    )
    pixels = ((images[:4] - mean) / deviation).double().numpy()
    for place, image in enumerate(pixels):
        small = image.reshape(2, 2, 2, 2, 2).mean(axis=(2, 4))
        top, left = divmod(place, 2)
        found = grids[0, :, 2 * top :, 2 * left :][:, :2, :2]
        np.testing.assert_allclose(found.numpy(), small, atol=1e-4)


def run_of(height: int, width: int) -> Run:
    task = Task("toy", (2, height, width), 2, 1)
    return Run(task, "dm", MLP(), 1, 0, CPU)


def sampler() -> RealSampler:
    images = torch.zeros(2, 2, 4, 4)
    return RealSampler(images, torch.arange(2), seed=0, device=CPU)


@pytest.mark.parametrize("whitened", [False, True])
def test_the_gradient_of_grids_is_that_of_finite_differences(whitened: bool) -> None:
    """Decoding is linear but for a shift: a unit step tells the whole derivative."""
    transform = whitening(2, 4, 4) if whitened else PLAIN
    codec = Packed(factor=2).codec(run_of(4, 4), sampler(), transform)
    assert codec.images_per_stored == 4
    made = Synthetic(
        random(8, 2, 4, 4).float(),
        torch.eye(8),
        torch.arange(8),
        learn_labels=False,
        codec=codec,
    )
    (grids,) = made.parameters()
    grids.data = random(2, 2, 4, 4, seed=3)
    leaves, weights = made.decode(), random(8, 2, 4, 4, seed=6)
    leaves.pixels.grad = weights
    made.pull_back(leaves)
    start = (codec.decode({"grids": grids}) * weights).sum()
    for place in range(0, grids.numel(), 7):
        unit = torch.zeros(grids.numel()).double()
        unit[place] = 1
        moved = codec.decode({"grids": grids + unit.view_as(grids)})
        expected = (moved * weights).sum() - start
        assert grids.grad is not None
        found = grids.grad.reshape(-1)[place]
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(4, 8), (8, 4)])
def test_images_that_no_grid_fits_are_refused(height: int, width: int) -> None:
    packed = Packed(factor=3)
    with pytest.raises(OptionError, match=rf"hold 3 smaller ones.*{height}x{width}"):
        packed.codec(run_of(height, width), sampler(), PLAIN)
    assert packed.codec(run_of(5, 32), sampler(), PLAIN).images_per_stored == 9
    for factor in (1, 9):
        with pytest.raises(OptionError, match=rf"factor.*\b{factor}\b"):
            Packed(factor=factor)


def test_a_stored_image_holds_the_square_of_the_factor() -> None:
    assert [Packed(factor=each).images_per_stored for each in (2, 3, 8)] == [4, 9, 64]
    assert Identity().images_per_stored == 1
    assert Identity().codec(run_of(4, 4), sampler(), PLAIN) is None  # type: ignore[func-returns-value]


def test_a_file_s_grids_are_decoded_as_a_run_s() -> None:
    grids = random(2, 2, 6, 6).float()
    packed = Packed(factor=3)
    found = packed.read({"grids": grids}, {}, PLAIN)
    assert torch.equal(found, packed.decode({"grids": grids}, PLAIN))


GRIDS = torch.zeros(2, 2, 6, 4)


@pytest.mark.parametrize(
    ("packed", "stored", "constants", "error", "named"),
    [
        (Packed(), {"latents": GRIDS}, {}, ValueError, "latents"),
        (Packed(), {"grids": GRIDS, "more": GRIDS}, {}, ValueError, "more"),
        (Packed(), {"grids": GRIDS[0]}, {}, ValueError, "grids"),
        (Packed(), {"grids": GRIDS}, {"more": GRIDS}, ValueError, "no decoder"),
        (Packed(factor=3), {"grids": GRIDS}, {}, OptionError, "6x4"),
    ],
)
def test_what_no_grids_are_is_refused(
    packed: Packed,
    stored: dict[str, Any],
    constants: dict[str, Any],
    error: type[Exception],
    named: str,
) -> None:
    with pytest.raises(error, match=named):
        packed.read(stored, constants, PLAIN)


def test_pixels_repeated_on_a_gpu_are_those_of_torch() -> None:
    grids = torch.randn(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    found = _extended(_extended(grids, -2, 2), -1, 3)
    wanted = F.pad(grids, (0, 3, 0, 2), mode="replicate")
    assert torch.equal(found, wanted)
    weights = torch.randn(wanted.shape, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((each * weights).sum(), grids)[0]
        for each in (found, wanted)
    ]
    torch.testing.assert_close(*gradients)
    assert torch.equal(_extended(grids, -1, 0), grids)
