"""Time a training step of several networks of an evaluation: in turn, or as one.

    python benchmarks/ensembles.py --widths 32,64,128 --images 10

As one, they are a single model of stacked weights under ``torch.func.vmap``. Each has
images of its own, because each has its own augmentation. Prints the milliseconds of one
step of all networks.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import dd_plugins
from dd_plugins.functional.kernel_regression import half_squared_error
from dd_plugins.runtime.device import (
    autocast,
    channels_last,
    resolve_device,
    resolve_precision,
)

CLASSES = 10
REPEATS = 9


def milliseconds(step: Callable[[], None], device: torch.device) -> float:
    """Return the median time of a call in milliseconds, after a warm-up call."""
    step()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def in_turn(
    networks: list[nn.Module], images: Tensor, labels: Tensor, precision: torch.dtype
) -> Callable[[], None]:
    """Return a step that trains one network after the other."""
    optimizers = [torch.optim.Adam(each.parameters(), lr=3e-4) for each in networks]
    near = [each.contiguous(memory_format=torch.channels_last) for each in images]

    def step() -> None:
        rows = zip(networks, optimizers, near, labels, strict=True)
        for network, optimizer, own_images, own_labels in rows:
            with autocast(images.device, precision):
                outputs = network(own_images)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(half_squared_error(outputs.float(), own_labels))
            optimizer.step()

    return step


def as_one(
    networks: list[nn.Module], images: Tensor, labels: Tensor, precision: torch.dtype
) -> Callable[[], None]:
    """Return a step that trains all networks as one model of stacked weights."""
    stacked, buffers = stack_module_state(networks)
    weights = {name: each.detach().requires_grad_() for name, each in stacked.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=3e-4)

    def outputs_of(
        own: dict[str, Tensor], held: dict[str, Tensor], of: Tensor
    ) -> Tensor:
        found: Tensor = functional_call(networks[0], (own, held), (of,))
        return found

    def step() -> None:
        with autocast(images.device, precision):
            outputs = vmap(outputs_of)(weights, buffers, images)
        optimizer.zero_grad(set_to_none=True)
        losses = vmap(half_squared_error)(outputs.float(), labels)
        torch.autograd.backward(losses.sum())
        optimizer.step()

    return step


def settings(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Yield every width with every number of images."""
    for width in options.widths.split(","):
        for images in options.images.split(","):
            yield int(width), int(images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", default="32,64,128")
    parser.add_argument("--images", default="10,100")
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    print("| width | images | in turn | as one |\n|---|---|---|---|")
    for width, count in settings(options):
        generator = torch.Generator().manual_seed(0)
        spec = dd_plugins.get_network(f"conv(width={width}, normalization='none')")
        networks: list[nn.Module] = [
            channels_last(spec.build((3, 32, 32), CLASSES, generator=generator), device)
            for _ in range(options.networks)
        ]
        shape = (options.networks, count)
        images = torch.randn(*shape, 3, 32, 32, generator=generator).to(device)
        labels = torch.randn(*shape, CLASSES, generator=generator).to(device)
        found = [
            milliseconds(way(networks, images, labels, precision), device)
            for way in (in_turn, as_one)
        ]
        print(f"| {width} | {count} | {found[0]:.1f} ms | {found[1]:.1f} ms |")


if __name__ == "__main__":
    main()
