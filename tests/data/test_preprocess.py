import numpy as np
import pytest
import torch

from dd_plugins.data import preprocess, whitening
from dd_plugins.data.preprocess import ZCA_RIDGE, Transform, to_unit_range
from dd_plugins.errors import DataError
from dd_plugins.runtime.randomness import generator_for

KINDS = ["standardize", "zca"]


def _images(n=60, channels=3, height=4, width=4, purpose="train"):
    """Make uint8 images whose neighbouring pixels are correlated."""
    shape = (n, channels, height + 2, width + 2)
    noise = torch.rand(shape, generator=generator_for(0, purpose))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1)
    gain = torch.tensor([1.0, 0.5, 0.8])[:channels, None, None]
    return (255 * gain * smooth).to(torch.uint8)


def _standardized(images, train):
    """Standardise by channel, with numpy in float64."""
    x, reference = images.numpy() / 255, train.numpy() / 255
    mean = reference.mean(axis=(0, 2, 3), keepdims=True)
    return (x - mean) / reference.std(axis=(0, 2, 3), keepdims=True)


def _sub_images(x, stride):
    """Return the flattened interleaved sub-images, one row each."""
    return np.concatenate(
        [
            x[:, :, row::stride, column::stride].reshape(len(x), -1)
            for row in range(stride)
            for column in range(stride)
        ]
    )


def _zca(rows, train_rows):
    """Whiten rows as the released code does: by the SVD of the ridged covariance."""
    n, d = train_rows.shape
    centre = train_rows.mean(axis=0)
    covariance = (train_rows - centre).T @ (train_rows - centre) / n
    covariance += ZCA_RIDGE * np.trace(covariance) / d * np.eye(d)
    u, s, _ = np.linalg.svd(covariance)  # largest first
    s[n:] = 1.0
    return (rows - centre) @ (u @ np.diag(s**-0.5) @ u.T)


def test_unit_range_divides_bytes_by_255_and_keeps_floats():
    values = torch.tensor([0, 51, 255], dtype=torch.uint8)
    expected = torch.tensor([0.0, 0.2, 1.0])

    torch.testing.assert_close(to_unit_range(values), expected)
    torch.testing.assert_close(to_unit_range(expected.double()), expected)


def test_standardisation_equals_numpy():
    train, test = _images(), _images(5, purpose="test")

    transform = Transform.fit(train, "standardize")

    assert transform.kind == "standardize"
    np.testing.assert_allclose(
        transform(test).numpy(), _standardized(test, train), atol=1e-5
    )


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(4, 4, 1), (8, 8, 2), (4, 8, 2), (12, 6, 3)]
)
def test_whitening_equals_numpy_on_interleaved_sub_images(
    monkeypatch, height, width, stride
):
    monkeypatch.setattr(whitening, "_LARGEST_SIDE", 4)
    train = _images(200, 2, height, width)
    test = _images(5, 2, height, width, purpose="test")
    expected = _zca(
        _sub_images(_standardized(test, train), stride),
        _sub_images(_standardized(train, train), stride),
    )

    transform = Transform.fit(train, "zca")

    assert transform.kind == "zca"
    assert transform.stride == stride
    assert transform.whitening.shape == 2 * (2 * height * width // stride**2,)
    np.testing.assert_allclose(
        _sub_images(transform(test).numpy(), stride), expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(("side", "stride"), [(4, 1), (8, 2)])
def test_with_fewer_images_than_pixels_directions_without_data_keep_their_scale(
    monkeypatch, side, stride
):
    monkeypatch.setattr(whitening, "_LARGEST_SIDE", 4)
    train = _images(5, height=side, width=side)
    rows = _sub_images(_standardized(train, train), stride)
    count, size = rows.shape

    transform = Transform.fit(train, "zca")

    # Centring costs one dimension, so one null direction of the SVD is arbitrary:
    # only images in the span of the training images have a defined value.
    np.testing.assert_allclose(
        _sub_images(transform(train).numpy(), stride),
        _zca(rows, rows),
        rtol=1e-3,
        atol=1e-4,
    )
    # Written as a low-rank matrix: less than one row for each image.
    assert transform.whitening is None
    assert transform.kind == "zca"
    directions = transform.directions.double().numpy()
    assert len(directions) < count < size
    np.testing.assert_allclose(
        directions @ directions.T, np.eye(len(directions)), atol=1e-5
    )
    others = torch.randn(
        3, *train.shape[1:], generator=torch.Generator().manual_seed(1)
    )
    back = transform.invert(transform(others.sigmoid()))
    np.testing.assert_allclose(back.numpy(), others.sigmoid().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(65, 65, 2), (130, 130, 3), (128, 63, 2)]
)
def test_whitened_sub_images_are_of_64_pixels_at_most(height, width, stride):
    images = torch.zeros(1, 1, height, width)

    with pytest.raises(
        DataError, match=f"{height}x{width} .* divisible by {stride}.*'standardize'"
    ):
        Transform.fit(images, "zca")


def test_whitened_training_data_has_the_identity_as_covariance_up_to_the_ridge():
    train = _images(400)
    rows = _standardized(train, train).reshape(400, -1)
    spectrum = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    ridge = ZCA_RIDGE * spectrum.mean()

    values = Transform.fit(train, "zca")(train).numpy().reshape(400, -1)

    whitened = np.linalg.eigvalsh(np.cov(values.T, bias=True))
    np.testing.assert_allclose(whitened, spectrum / (spectrum + ridge), atol=1e-3)
    assert whitened[-1] > 0.97
    assert np.abs(values.mean(axis=0)).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [4, 8])
def test_inverting_gives_the_images_back(monkeypatch, kind, side):
    monkeypatch.setattr(whitening, "_LARGEST_SIDE", 4)
    transform = Transform.fit(_images(height=side, width=side), kind)
    test = _images(7, height=side, width=side, purpose="test")

    values = transform(test)

    assert values.dtype == torch.float32
    assert values.shape == test.shape
    assert (values - to_unit_range(test)).abs().max() > 0.1
    torch.testing.assert_close(
        transform.invert(values), to_unit_range(test), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_and_floats_in_the_unit_range_agree(kind):
    train = _images()

    by_bytes = Transform.fit(train, kind)
    by_floats = Transform.fit(to_unit_range(train), kind)

    for name, tensor in by_bytes.tensors().items():
        torch.testing.assert_close(by_floats.tensors()[name], tensor)
    torch.testing.assert_close(by_bytes(to_unit_range(train)), by_bytes(train))


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_channel_stays_finite_and_comes_back(kind):
    train = _images()
    train[:, 1] = 77

    transform = Transform.fit(train, kind)
    values = transform(train)

    assert transform.deviation[1] == 1
    assert values[:, 1].abs().max() < 1e-5
    torch.testing.assert_close(
        transform.invert(values), to_unit_range(train), rtol=0, atol=1e-4
    )


def test_whitening_is_inverted_by_one_factorisation(monkeypatch):
    train = _images(60)
    transform = Transform.fit(train, "zca")
    values = transform(train)
    flat = values.flatten(1).double()
    solved = torch.linalg.solve(transform.whitening.double(), flat.mT).mT
    torch.testing.assert_close(transform._unwhiten(flat), solved, rtol=0, atol=1e-12)

    monkeypatch.setattr(torch.linalg, "lu_factor", None)
    monkeypatch.setattr(torch.linalg, "solve", None)
    torch.testing.assert_close(transform.invert(values), to_unit_range(train))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("limit", "most"),
    [
        ("dd_plugins.data.preprocess._CHUNK", 3),
        ("dd_plugins.data.streamed._VALUES", 3 * 3 * 4 * 4),
    ],
)
def test_working_in_chunks_changes_nothing(monkeypatch, kind, limit, most):
    train = _images(10)
    whole = Transform.fit(train, kind)
    values = whole(train)

    seen = []
    monkeypatch.setattr(limit, most)
    monkeypatch.setattr(
        preprocess,
        "to_unit_range",
        lambda images: seen.append(len(images)) or to_unit_range(images),
    )
    chunked = Transform.fit(train, kind)
    whole(train)

    assert max(seen) == 3
    torch.testing.assert_close(chunked(train), values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole(train), values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [4, 8])
def test_a_transform_is_rebuilt_from_its_tensors_and_stride(monkeypatch, kind, side):
    monkeypatch.setattr(whitening, "_LARGEST_SIDE", 4)
    train = _images(height=side, width=side)
    transform = Transform.fit(train, kind)

    rebuilt = Transform.from_tensors(transform.tensors(), transform.stride)

    assert rebuilt.kind == kind
    assert rebuilt.tensors().keys() == transform.tensors().keys()
    assert torch.equal(rebuilt(train), transform(train))
    assert torch.equal(
        rebuilt.invert(transform(train)), transform.invert(transform(train))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_are_not_modified(kind, dtype):
    train = _images().to(dtype) if dtype == torch.uint8 else to_unit_range(_images())
    original = train.clone()

    transform = Transform.fit(train, kind)
    values = transform(train)
    kept = values.clone()
    transform.invert(values)

    assert torch.equal(train, original)
    assert torch.equal(values, kept)


def test_a_moved_transform_is_the_same_map():
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    transform = Transform.fit(images, "zca")
    moved = transform.to(torch.device("cpu"))
    away = transform.to(torch.device("meta"))

    assert moved.fingerprint == transform.fingerprint
    assert torch.equal(moved(images), transform(images))
    assert {tensor.device.type for tensor in away.tensors().values()} == {"meta"}


@pytest.mark.parametrize("count", [200, 5])
def test_pixel_zca_is_that_of_trajectory_matching(count):
    """Pixels in [0, 1], centred, times (C + 0.1 I) ** -0.5; with few images as well."""
    train, test = _images(count, 2, 4, 4), _images(5, 2, 4, 4, purpose="test")
    pixels, others = (each.flatten(1).double().numpy() for each in (train, test))
    if train.dtype == torch.uint8:
        pixels, others = pixels / 255, others / 255
    centred = pixels - pixels.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / count)
    matrix = (vectors * (values + 0.1) ** -0.5) @ vectors.T

    transform = Transform.fit(train, "pixel-zca")

    assert transform.kind == "pixel-zca"
    expected = (others - pixels.mean(axis=0)) @ matrix
    found = transform(test)
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, atol=1e-4)
    undone = transform.invert(found).flatten(1).numpy()
    np.testing.assert_allclose(undone, others, atol=1e-4)


def test_the_constant_space_reads_no_image():
    images = _images()
    constant = Transform.fit(images, "constant")
    assert constant.kind == "constant"
    assert constant.fingerprint == Transform.fit(255 - images, "constant").fingerprint
    edges = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert constant(edges).unique().tolist() == [-1.0, 1.0]
    torch.testing.assert_close(constant.invert(constant(images)), images.float() / 255)
