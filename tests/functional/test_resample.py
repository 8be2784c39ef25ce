import pytest
import torch
import torch.nn.functional as F

from dd_plugins.functional import resample as module
from dd_plugins.functional.resample import _even_grid, _Sample, _sums, resample, resize


def _images_and_grid(dtype=torch.float64, reach=0.3):
    """Return images and a grid that turns, zooms and moves each, beyond its edges."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 8, 6, generator=generator, dtype=dtype)
    draws = torch.rand(4, 2, 3, generator=generator, dtype=dtype) - 0.5
    matrix = torch.eye(2, 3, dtype=dtype) * 1.2 + reach * draws
    grid = F.affine_grid(matrix, [4, 3, 10, 7], align_corners=False)
    return images, grid


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_the_exact_gradient_is_that_of_torch(padding):
    images, grid = _images_and_grid()
    weights = resample(images, grid, padding).cos()
    gradients = []
    for sample in (resample, _Sample.apply):
        leaf = images.clone().requires_grad_()
        sampled = sample(leaf, grid, padding)
        gradients.append(torch.autograd.grad((sampled * weights).sum(), leaf)[0])

    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_the_exact_gradient_can_be_differentiated_again(padding):
    images, grid = _images_and_grid()
    leaf = images[:1, :1].clone().requires_grad_()

    def sample(image):
        return _Sample.apply(image, grid[:1, :3, :3], padding)

    assert torch.autograd.gradcheck(sample, leaf, atol=1e-6)
    assert torch.autograd.gradgradcheck(sample, leaf, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_small_and_large_gradients_keep_the_precision_of_float32(scale):
    images, grid = _images_and_grid(torch.float32)
    gradients = []
    for sample in (resample, _Sample.apply):
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(sample(leaf, grid, "border").sum(), leaf)
        gradients.append(gradient)
    leaf = images.clone().requires_grad_()
    (scaled,) = torch.autograd.grad(
        _Sample.apply(leaf, grid, "border"), leaf, torch.full((4, 3, 10, 7), scale)
    )

    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scaled / scale, gradients[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stays_so(value):
    images, grid = _images_and_grid(torch.float32)
    leaf = images.requires_grad_()
    gradient = torch.ones(4, 3, 10, 7)
    gradient[1, 2, 3, 4] = value

    (found,) = torch.autograd.grad(_Sample.apply(leaf, grid, "border"), leaf, gradient)

    assert not torch.isfinite(found).all()


def test_the_sum_does_not_depend_on_the_order_of_its_parts():
    images, grid = _images_and_grid(torch.float32, reach=3.0)
    leaf = images.clone().requires_grad_()
    weights = resample(images, grid, "border").cos().flatten(2)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1))
    gradients = [
        torch.autograd.grad(
            _Sample.apply(leaf, grid.flatten(1, 2)[:, None, chosen], "border"),
            leaf,
            weights[:, :, None, chosen].detach(),
        )[0]
        for chosen in (torch.arange(70), order)
    ]

    assert torch.equal(*gradients)


@pytest.mark.parametrize(("values", "sizes"), [(1, [1] * 4), (3 * 840, [3, 1])])
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_a_large_batch_is_added_up_a_few_images_at_a_time(
    padding, values, sizes, monkeypatch
):
    images, grid = _images_and_grid(torch.float32, reach=3.0)
    gradient = resample(images, grid, padding).cos()
    gradient *= torch.logspace(0, 3, 4).view(4, 1, 1, 1)  # of unequal images
    leaf = images.clone().requires_grad_()
    sampled = _Sample.apply(leaf, grid, padding)
    (whole,) = torch.autograd.grad(sampled, leaf, gradient, retain_graph=True)
    seen = []

    def noted(samples, *rest):
        seen.append(len(samples))
        return _sums(samples, *rest)

    monkeypatch.setattr(module, "_VALUES", values)  # an image has 840
    monkeypatch.setattr(module, "_sums", noted)
    (in_parts,) = torch.autograd.grad(sampled, leaf, gradient)

    assert torch.equal(in_parts, whole)
    assert seen == sizes


@pytest.mark.parametrize("size", [(16, 12), (11, 25), (8, 6), (5, 3), (1, 1)])
def test_images_are_resized_as_by_interpolation_on_a_gpu_too(size):
    images, _ = _images_and_grid()
    images.requires_grad_()
    grid = _even_grid(size).to(images).expand(len(images), -1, -1, -1)
    wanted = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    weights = wanted.detach().cos()
    gradients = [
        torch.autograd.grad((each * weights).sum(), images)[0]
        for each in (_Sample.apply(images, grid, "border"), wanted)
    ]

    torch.testing.assert_close(_Sample.apply(images, grid, "border"), wanted)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)
    assert torch.equal(resize(images, size), wanted)
