"""What holds on a CPU holds on a CUDA GPU: the same bits at every run."""

import os
import signal

import pytest
import torch
import torch.nn.functional as F

import dd_plugins
from dd_plugins.data.real import RealData
from dd_plugins.data.sampler import RealSampler
from dd_plugins.functional.class_sums import class_sums
from dd_plugins.functional.resample import resample, resize
from dd_plugins.networks.base import HalvingAvgPool2d
from dd_plugins.plugins.manager import Plugins
from dd_plugins.runtime.cuda_graphs import GraphedFunction
from dd_plugins.runtime.device import exact_kernels

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA GPU here"
)
CONV = "conv(width=16, normalization='none')"
COMMON = "augment=True, real_batch_size=64, max_online_updates=20"
FREPO = f"frepo({COMMON}, augmented_copies=0"
RUNS = [
    (f"{FREPO})", CONV),
    (
        "frepo(augment=False, real_batch_size=64, max_online_updates=20)",
        "conv(width=16)",
    ),
    (f"frepo({COMMON}, augmented_copies=2)", CONV),
    (f"{FREPO}, updates_per_batch=3, online_steps=2, pool_networks=({CONV},))", "conv"),
    ("dsa()", "dc_convnet(width=16)"),
    ("dm()", "dc_convnet(width=16)"),
]


def _data(test=False):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        256, (600, 3, 32, 32), generator=generator, dtype=torch.uint8
    )
    labels = torch.arange(600) % 10
    return RealData.from_tensors(
        images, labels, mirror=True, test=(images.flip(-1), labels) if test else None
    )


def _distil(spec, network, observers=(), **options):
    return dd_plugins.distill(
        _data(),
        spec,
        images_per_class=2,
        steps=60,
        network=network,
        device="cuda",
        plugins=Plugins(
            load=[], extra={str(place): each for place, each in enumerate(observers)}
        ),
        **options,
    )


@pytest.mark.parametrize(("spec", "network"), RUNS)
def test_two_runs_give_the_same_bits(spec, network):
    one, two = (_distil(spec, network) for _ in range(2))

    assert torch.equal(one.images, two.images)
    assert torch.equal(one.labels, two.labels)


@pytest.mark.filterwarnings("ignore:.*capturable=True")  # not, while it is called
@pytest.mark.parametrize(("spec", "network"), RUNS[:4])
def test_recorded_kernels_give_the_bits_of_called_ones(spec, network, monkeypatch):
    recorded = _distil(spec, network)
    monkeypatch.setattr(
        GraphedFunction, "__call__", lambda self, *inputs: self._function(*inputs)
    )
    called = _distil(spec, network)

    assert torch.equal(recorded.images, called.images)


class _Interrupt:
    @dd_plugins.hookimpl
    def dd_after_step(self, step):
        if step == 25:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("spec", "network"), RUNS[:4])
def test_an_interrupted_run_goes_on_bit_for_bit(spec, network, tmp_path):
    whole = _distil(spec, network)
    with pytest.raises(KeyboardInterrupt):
        _distil(spec, network, [_Interrupt()], out=tmp_path)
    resumed = _distil(spec, network, out=tmp_path, resume=True)

    assert torch.equal(whole.images, resumed.images)
    assert torch.equal(whole.labels, resumed.labels)


class _Memory:
    def __init__(self):
        self.held = {}

    @dd_plugins.hookimpl
    def dd_after_step(self, step):
        self.held[step] = torch.cuda.memory_allocated()


def test_the_memory_of_a_run_does_not_grow():
    memory = _Memory()
    _distil(f"{FREPO})", CONV, [memory])

    assert memory.held[60] < memory.held[30] + 2**20


def test_networks_that_are_evaluated_get_the_same_bits():
    distilled = _distil(f"{FREPO})", CONV)
    scores = [
        dd_plugins.evaluate(
            distilled, [CONV], repeats=2, data=_data(test=True), device="cuda"
        )
        for _ in range(2)
    ]

    assert scores[0].networks[0].accuracies == scores[1].networks[0].accuracies


def test_indices_on_the_gpu_read_images_beside_it(monkeypatch):
    monkeypatch.setattr("dd_plugins.data.sampler.fits_on", lambda device, size: False)
    images, labels = torch.rand(9, 1, 2, 2), torch.arange(9)
    gpu, chosen = torch.device("cuda"), torch.tensor([4, 1])
    sampler = RealSampler(images, labels, seed=0, device=gpu)
    for indices in (chosen, chosen.to(gpu)):
        assert torch.equal(sampler.read(indices).images.cpu(), images[chosen])
        assert torch.equal(sampler.pixels(indices).cpu(), images[chosen])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pooling_is_that_of_torch(dtype):
    images = torch.randn(4, 8, 16, 16, device="cuda", dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    pooled, expected = HalvingAvgPool2d()(images), F.avg_pool2d(images, 2)
    gradients = [
        torch.autograd.grad(each.square().sum(), images)[0]
        for each in (pooled, expected)
    ]

    assert torch.equal(pooled, expected)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_resampling_has_the_gradient_of_torch(padding):
    images = torch.randn(4, 3, 8, 8, device="cuda", dtype=torch.float64)
    images.requires_grad_()
    matrix = torch.eye(2, 3, device="cuda", dtype=torch.float64) * 1.2
    grid = F.affine_grid(matrix.repeat(4, 1, 1), [4, 3, 10, 10], align_corners=False)
    sampled = resample(images, grid, padding)
    expected = F.grid_sample(images, grid, padding_mode=padding, align_corners=False)
    gradients = [
        torch.autograd.grad(each.square().sum(), images)[0]
        for each in (sampled, expected)
    ]

    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(16, 12), (11, 25), (8, 6)])
def test_resizing_is_that_of_torch(size):
    images = torch.randn(4, 3, 8, 6, device="cuda").requires_grad_()
    expected = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    resized = resize(images, size)
    gradients = [
        torch.autograd.grad(each.square().sum(), images)[0]
        for each in (resized, expected)
    ]

    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_sums_by_class_are_those_of_torch():
    values = torch.randn(100, 5, device="cuda").requires_grad_()
    classes = torch.arange(100, device="cuda") % 7
    expected = values.new_zeros(8, 5).index_add(0, classes, values)
    found = class_sums(values, classes, 8)
    gradients = [
        torch.autograd.grad(each.square().sum(), values)[0]
        for each in (found, expected)
    ]

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*gradients)


def test_convolutions_in_float32_are_not_rounded_to_tf32():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 64, 16, 16, generator=generator).cuda()
    weights = torch.randn(64, 64, 3, 3, generator=generator).cuda()
    exact = F.conv2d(images.double(), weights.double())

    with exact_kernels():
        found = F.conv2d(images, weights)

    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_an_estimate_tells_the_memory_of_the_gpu():
    found = dd_plugins.estimate("digits", "frepo", steps=20, device="cuda")

    assert found.device == "cuda"
    assert 0 < found.memory < torch.cuda.get_device_properties(0).total_memory
    assert found.step_seconds > 0


def test_a_teacher_on_the_cpu_labels_on_the_gpu():
    made = dd_plugins.distill(_data(), "random", network="mlp(width=4)")
    teacher = dd_plugins.get_network("mlp(width=4)").build(
        (3, 32, 32), 10, generator=torch.Generator()
    )
    taught = dd_plugins.relabel(
        made, teacher.eval(), views="views(count=2)", device="cuda"
    )
    assert taught.view_labels.shape == (2, len(made), 10)
    assert next(teacher.parameters()).device.type == "cpu"
