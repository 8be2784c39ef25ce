import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from dd_plugins.functional import augment
from dd_plugins.functional.augment import (
    Affine,
    Colour,
    Siamese,
    apply_affine,
    apply_colour,
    crop_and_flip,
    cut_out,
    flip,
    random_augmentation,
    siamese_augmentation,
    siamese_parameters,
    with_box,
)


def _images(n=3, channels=3, height=8, width=8):
    generator = torch.Generator().manual_seed(0)
    shape = (n, channels, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _affine(n, angle=0.0, zoom=1.0, shift=(0.0, 0.0)):
    ones = torch.ones(n, dtype=torch.float64)
    return Affine(angle * ones, zoom * ones, ones[:, None] * ones.new_tensor(shift))


def _colour(n, brightness=0.0, contrast=1.0, saturation=1.0):
    ones = torch.ones(n, dtype=torch.float64)
    return Colour(brightness * ones, contrast * ones, saturation * ones)


@pytest.mark.parametrize(
    "transform",
    [
        lambda images: flip(images, torch.zeros(3, dtype=torch.bool)),
        lambda images: apply_affine(images, _affine(3)),
        lambda images: apply_colour(images, _colour(3)),
        lambda images: cut_out(images, torch.zeros(3, 2), size=0),
    ],
    ids=["flip", "affine", "colour", "cut_out"],
)
def test_neutral_parameters_change_nothing(transform):
    images = _images()

    torch.testing.assert_close(transform(images), images, rtol=0, atol=1e-12)


def test_flip_mirrors_only_the_marked_images():
    images = _images()

    flipped = flip(images, torch.tensor([True, False, True]))

    expected = images.numpy().copy()
    expected[[0, 2]] = expected[[0, 2], :, :, ::-1]
    np.testing.assert_array_equal(flipped.numpy(), expected)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_by_right_angles_permutes_the_pixels(quarters):
    images = _images()

    rotated = apply_affine(images, _affine(3, angle=quarters * math.pi / 2))

    expected = torch.rot90(images, quarters, dims=(-2, -1))
    torch.testing.assert_close(rotated, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, -2), (3, 1)])
def test_translation_by_whole_pixels_shifts_and_repeats_the_edge(right, down):
    images = _images(height=6, width=10)

    moved = apply_affine(images, _affine(3, shift=(2 * right / 10, 2 * down / 6)))

    rows = (np.arange(6) + down).clip(0, 5)
    columns = (np.arange(10) + right).clip(0, 9)
    expected = images.numpy()[:, :, rows[:, None], columns]
    np.testing.assert_allclose(moved.numpy(), expected, atol=1e-12)


def test_affine_equals_bilinear_resampling_with_parameters_for_each_image():
    images = _images(n=3, channels=1)
    angle = torch.tensor([0.2, -1.0, 0.0], dtype=torch.float64)
    zoom = torch.tensor([0.8, 1.25, 0.5], dtype=torch.float64)
    shift = torch.tensor([[0.1, -0.2], [0.0, 0.3], [-0.4, 0.0]], dtype=torch.float64)

    resampled = apply_affine(images, Affine(angle, zoom, shift))

    centre, half = 3.5, 4.0
    rows, columns = np.mgrid[:8, :8] - centre
    for i in range(3):
        cosine, sine = math.cos(angle[i]) * zoom[i], math.sin(angle[i]) * zoom[i]
        x = centre + cosine.numpy() * columns - sine.numpy() * rows
        y = centre + sine.numpy() * columns + cosine.numpy() * rows
        seen = [y + half * shift[i, 1].item(), x + half * shift[i, 0].item()]
        expected = map_coordinates(images[i, 0].numpy(), seen, order=1, mode="nearest")
        np.testing.assert_allclose(resampled[i, 0].numpy(), expected, atol=1e-12)


def test_colour_equals_a_loop_over_images_and_pixels():
    images = _images(height=3, width=4)
    brightness, contrast, saturation = torch.tensor(
        [[0.2, -0.1, 0.0], [1.2, 0.8, 1.0], [0.7, 1.3, 2.0]], dtype=torch.float64
    )

    changed = apply_colour(images, Colour(brightness, contrast, saturation))

    brightness, contrast, saturation = map(
        Tensor.tolist, (brightness, contrast, saturation)
    )
    expected = images.numpy().copy()
    for i in range(3):
        expected[i] += brightness[i]
        for row, column in np.ndindex(3, 4):
            pixel = expected[i, :, row, column]
            pixel[:] = pixel.mean() + saturation[i] * (pixel - pixel.mean())
        mean = expected[i].mean()
        expected[i] = mean + contrast[i] * (expected[i] - mean)
    np.testing.assert_allclose(changed.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("corner", [(0, 0), (2, 5), (4, 7)])
def test_cut_out_zeroes_one_square_and_nothing_else(corner):
    images = _images(n=2, height=7, width=10)
    row, column = corner

    cut = cut_out(images, torch.tensor([corner, corner]), size=3)

    expected = images.numpy().copy()
    expected[:, :, row : row + 3, column : column + 3] = 0
    np.testing.assert_array_equal(cut.numpy(), expected)
    assert (cut == 0).sum() == 2 * 3 * 9


@pytest.fixture
def drawn(monkeypatch):
    """Collect what the random operations apply, as (operation, parameters)."""
    calls = []

    def record(function):
        def recorded(images, *parameters):
            calls.append((_operation(function, parameters), parameters))
            return function(images, *parameters)

        monkeypatch.setattr(augment, function.__name__, recorded)

    for function in (flip, apply_affine, apply_colour, cut_out):
        record(function)
    return calls


def _operation(function, parameters):
    if function is not apply_affine:
        return function.__name__
    (affine,) = parameters
    if (affine.zoom != 1).any():
        return "crop"
    return "rotation" if (affine.angle != 0).any() else "translation"


@pytest.mark.parametrize(
    ("mirror", "operations"),
    [
        (True, {"apply_colour", "crop", "translation", "rotation", "cut_out", "flip"}),
        (False, {"apply_colour", "crop", "translation", "rotation", "cut_out"}),
    ],
)
def test_every_operation_is_drawn_equally_often(drawn, mirror, operations):
    images, generator = torch.zeros(2, 1, 8, 8), torch.Generator().manual_seed(0)

    for _ in range(600):
        random_augmentation(images, generator=generator, mirror=mirror)

    counts = Counter(operation for operation, _ in drawn)
    assert counts.total() == 600
    assert counts.keys() == operations
    expected = 600 / len(operations)
    assert all(abs(count - expected) < 40 for count in counts.values()), counts


@pytest.mark.parametrize(
    ("operation", "parameter", "low", "high"),
    [
        ("apply_colour", lambda colour: colour.brightness, -0.25, 0.25),
        ("apply_colour", lambda colour: colour.contrast.log(), -0.25, 0.25),
        ("apply_colour", lambda colour: colour.saturation.log(), -0.25, 0.25),
        ("crop", lambda affine: affine.zoom.log(), math.log(0.8), math.log(1.25)),
        ("crop", lambda affine: affine.shift / (affine.zoom - 1)[:, None], -1, 1),
        ("translation", lambda affine: affine.shift, -0.25, 0.25),  # of half a side
        ("rotation", lambda affine: affine.angle.rad2deg(), -15, 15),
        ("cut_out", lambda corner, size: corner[:, 0], 0, 12 - 3),
        ("cut_out", lambda corner, size: corner[:, 1], 0, 16 - 3),
        ("cut_out", lambda corner, size: torch.tensor([size]), 3, 3),
        ("flip", lambda flipped: flipped.double(), 0, 1),
    ],
)
def test_random_parameters_fill_their_range(drawn, operation, parameter, low, high):
    images, generator = torch.zeros(500, 1, 12, 16), torch.Generator().manual_seed(0)

    for _ in range(40):
        random_augmentation(images, generator=generator)

    values = torch.cat(
        [parameter(*p).flatten() for name, p in drawn if name == operation]
    )
    slack = 0.02 * (high - low)
    assert low - 1e-4 <= values.min() <= low + slack
    assert high - slack <= values.max() <= high + 1e-4
    assert values.double().mean() == pytest.approx(
        (low + high) / 2, abs=0.05 * (high - low)
    )


def test_the_same_generator_state_gives_the_same_augmentation():
    images = _images()

    def augmented(seed):
        generator = torch.Generator().manual_seed(seed)
        results = [random_augmentation(images, generator=generator) for _ in range(12)]
        return torch.stack(results)

    torch.testing.assert_close(augmented(1), augmented(1), rtol=0, atol=0)
    assert not torch.equal(augmented(1), augmented(2))


def test_augmentation_touches_neither_its_input_nor_the_global_state():
    images, generator = _images(), torch.Generator().manual_seed(0)
    original, state = images.clone(), torch.get_rng_state()

    for _ in range(30):
        augmented = random_augmentation(images, generator=generator)
        assert augmented.dtype == images.dtype
        assert augmented.shape == images.shape

    assert torch.equal(images, original)
    assert torch.equal(torch.get_rng_state(), state)


def _siamese(operation, *draws):
    return Siamese(operation, torch.tensor(draws, dtype=torch.float64)[:, None])


def _sampled(image, x, y):
    """Return an image seen at places, bilinearly; zero outside."""
    return map_coordinates(image, [y, x], order=1, mode="grid-constant", cval=0.0)


def test_siamese_operations_equal_their_plain_definitions():
    images = _images(n=2, channels=3, height=16, width=16)
    plain = images.numpy()

    def check(operation, draws, expected, atol=1e-12):
        found = siamese_augmentation(images, _siamese(operation, *draws)).numpy()
        np.testing.assert_allclose(found, expected, atol=atol)

    check("flip", (0.4, 0, 0), plain[..., ::-1])
    check("flip", (0.6, 0, 0), plain)
    # A shift by 2 of 16 pixels at most; the view moves right by 1 and up by 2.
    padded = np.pad(plain, ((0, 0), (0, 0), (2, 2), (2, 2)))
    check("crop", (3.5 / 5, 0.1 / 5, 0), padded[..., 0:16, 3:19], atol=1e-5)
    # A square of 8 pixels about row 4, column 15: it reaches over the edge.
    cut = plain.copy()
    cut[..., 0:8, 11:16] = 0
    check("cut_out", (4.5 / 17, 15.5 / 17, 0), cut)
    brighter = plain + (0.9 - 0.5)
    pixel = brighter.mean(axis=1, keepdims=True)
    saturated = pixel + 2 * 0.3 * (brighter - pixel)
    mean = saturated.mean(axis=(1, 2, 3), keepdims=True)
    contrasted = mean + (0.2 + 0.5) * (saturated - mean)
    check("colour", (0.9, 0.3, 0.2), contrasted)
    rows, columns = np.mgrid[:16, :16] - 7.5
    wide, high = (1 / 1.2 + draw * (1.2 - 1 / 1.2) for draw in (0.1, 0.9))
    angle = math.radians(15) * (2 * 0.8 - 1)
    places = {
        "scale": ((0.1, 0.9, 0), (wide * columns, high * rows)),
        "rotation": (
            (0.8, 0, 0),
            (
                math.cos(angle) * columns - math.sin(angle) * rows,
                math.sin(angle) * columns + math.cos(angle) * rows,
            ),
        ),
    }
    for operation, (draws, (x, y)) in places.items():
        expected = [
            [_sampled(channel, x + 7.5, y + 7.5) for channel in image]
            for image in plain
        ]
        check(operation, draws, expected, atol=1e-6)


@pytest.mark.parametrize("mirror", [False, True])
def test_siamese_operations_are_drawn_equally_often(mirror):
    generator = torch.Generator().manual_seed(0)
    drawn = [siamese_parameters(generator, mirror=mirror) for _ in range(600)]
    counts = Counter(parameters.operation for parameters in drawn)
    assert len(counts) == (6 if mirror else 5)
    assert ("flip" in counts) == mirror
    assert all(abs(count - 600 / len(counts)) < 40 for count in counts.values())


def test_siamese_parameters_are_shared_or_each_image_s_own():
    image = _images(n=1).expand(4, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        shared = siamese_augmentation(image, siamese_parameters(generator))
        torch.testing.assert_close(shared, shared[:1].expand_as(shared))
    own = siamese_augmentation(image, Siamese("rotation", torch.rand(3, 4)))
    assert not torch.allclose(own[0], own[1])


@pytest.mark.parametrize(
    "operation", ["colour", "crop", "cut_out", "flip", "scale", "rotation"]
)
def test_siamese_augmentation_is_differentiable(operation):
    images = _images(n=2, channels=2, height=6, width=6).requires_grad_()
    parameters = _siamese(operation, 0.3, 0.7, 0.6)
    assert torch.autograd.gradcheck(
        lambda pixels: siamese_augmentation(pixels, parameters), (images,)
    )


@pytest.mark.parametrize(("height", "width"), [(16, 32), (4, 8), (32, 32)])
def test_crops_are_shifts_by_an_eighth_with_zeros_from_outside(height, width):
    rows = torch.arange(1, height + 1).float().view(-1, 1).expand(height, width)
    columns = torch.arange(1, width + 1).float().expand(height, width)
    images = torch.stack([rows, columns]).expand(400, 2, height, width)
    generator = torch.Generator().manual_seed(0)

    moved = crop_and_flip(images, generator=generator, mirror=False)

    assert moved.shape == images.shape
    down, across = max(1, height // 8), max(1, width // 8)
    middle = moved[:, :, height // 2, width // 2]
    shifts = middle - torch.tensor([height // 2 + 1.0, width // 2 + 1.0])
    assert set(shifts[:, 0].tolist()) == set(range(-down, down + 1))
    assert set(shifts[:, 1].tolist()) == set(range(-across, across + 1))
    for image, (row, column) in zip(moved, shifts.long().tolist(), strict=True):
        padded = torch.zeros(2, height + 2 * down, width + 2 * across)
        padded[:, down:-down, across:-across] = images[0]
        top, left = row + down, column + across
        assert torch.equal(image, padded[:, top : top + height, left : left + width])


def test_half_of_the_crops_are_flipped_where_that_is_allowed():
    columns = torch.arange(1.0, 33).view(1, 1, 1, 32).expand(500, 1, 8, 32)
    for mirror in (True, False):
        generator = torch.Generator().manual_seed(1)
        moved = crop_and_flip(columns, generator=generator, mirror=mirror)
        falling = (moved[:, 0, 4, 15] > moved[:, 0, 4, 16]).float().mean()
        assert (0.4 < falling < 0.6) if mirror else falling == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.0, 1.0)])
def test_a_box_is_of_the_other_image_and_its_area_is_told(share, centre):
    images, others = torch.zeros(2, 1, 40, 20), torch.ones(2, 1, 40, 20)

    mixed, left = with_box(images, others, share, centre)

    assert torch.equal(mixed[0], mixed[1])
    assert float(mixed.mean()) == pytest.approx(1 - left)
    if centre == (0.5, 0.5):
        assert left == pytest.approx(share, abs=0.06)
    else:
        assert left == pytest.approx(1 - (1 - share) / 4, abs=0.05)
    assert torch.equal(images, torch.zeros(2, 1, 40, 20))
