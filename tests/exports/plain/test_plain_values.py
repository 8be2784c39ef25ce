"""The value space of scripts, against that of the library."""

from dataclasses import replace

import pytest
import torch

from dd_plugins.data.preprocess import Preprocessing, Transform
from dd_plugins.exports.plain.values import standardised, whitened


@pytest.mark.parametrize("kind", ["standardize", "constant", "zca", "pixel-zca"])
@pytest.mark.parametrize(("count", "side"), [(60, 4), (20, 8), (3, 96)], ids=str)
def test_plain_value_space_is_the_library_s(
    kind: Preprocessing, count: int, side: int
) -> None:
    """By a matrix, by directions, and in sub-images of less than 64 pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 2, side, side, generator=generator)
    transform = Transform.fit(images, kind)
    tensors = replace(transform, compact=None).tensors()
    held = {f"transform_{name}": each for name, each in tensors.items()}
    if transform.centre is None:
        found = standardised(images, held)
    else:
        found = whitened(images, held, transform.stride)
    torch.testing.assert_close(found, transform(images), atol=1e-4, rtol=1e-4)
