"""Time the ways to regress with the tangent kernel of a network's body.

    OMP_NUM_THREADS=1 python benchmarks/tangent_kernel.py --out FILE

One ``conv`` model with random weights, and random images of 32x32 pixels. Each kernel
has a row: the seconds of the real features, of the support features, of the weights of
the regression with their gradient, and of the gradient of the support images. The row
"conjugate gradients" solves RCIG's own system, of all logits with the head's weights,
by products of the Jacobian with vectors; its columns are not kept. The rows "softplus"
have ``softplus(60 x) / 60`` in place of ReLU, so that the backward signal is
differentiated too. All run in one process, one after another, in rounds; each figure is
the median over rounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.profiler import ProfilerActivity, profile

import dd_plugins
from dd_plugins.distillers.frepo.regression import Regression, solve_or_raise
from dd_plugins.functional.tangent_kernel import TangentKernel
from dd_plugins.networks.base import FeatureNetwork, features_in_chunks
from dd_plugins.networks.conv import Conv
from dd_plugins.run import Run, Task

CLASSES = 10
RUN = Run(
    Task("random", (3, 32, 32), CLASSES, 1), "frepo", Conv(), 1, 0, torch.device("cpu")
)
RIDGE = 1e-2  # relative to the mean eigenvalue, FRePo's with augmented copies
RESIDUAL = 1e-2  # of the conjugate gradients, relative to the targets


class Softplus(nn.Module):
    """A smooth ReLU, as RCIG uses for networks of three blocks."""

    def forward(self, values: Tensor) -> Tensor:
        """Return ``softplus(60 x) / 60``."""
        return torch.nn.functional.softplus(values, beta=60)


def model(width: int, smooth: bool) -> FeatureNetwork:
    """Return a fresh network; its weights are the same in every call."""
    network = dd_plugins.get_network(f"conv(width={width}, normalization='none')")
    made = network.build(
        (3, 32, 32), CLASSES, generator=torch.Generator().manual_seed(0)
    ).to(memory_format=torch.channels_last)
    if smooth:
        for name, layer in list(made.body.named_children()):
            if isinstance(layer, nn.ReLU):
                setattr(made.body, name, Softplus())
    return made.eval()


def images_of(count: int, seed: int) -> Tensor:
    """Return random images, channels last."""
    images = torch.randn(
        count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)
    )
    return images.contiguous(memory_format=torch.channels_last)


def targets_of(count: int) -> Tensor:
    """Return centred targets of the classes, in turn."""
    return torch.eye(CLASSES)[torch.arange(count) % CLASSES] - 1 / CLASSES


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of some work, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def by_blocks(
    network: FeatureNetwork, kernel: TangentKernel | None, support: int, real: int
) -> dict[str, float]:
    """Return the seconds of each part of a step, with FRePo's own regression."""
    regression = Regression(
        RIDGE, "squared-error", False, False, support, False, kernel
    )
    drawn = regression.draw(RUN, network, torch.Generator().manual_seed(1))
    found = {}
    found["real features"], of_real = seconds_of(
        lambda: regression.blocks(RUN, network, images_of(real, 2), drawn)
    )
    inputs = (images_of(support, 3), targets_of(support), targets_of(real), drawn)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        regression.gradient(solve_or_raise, RUN, network, *inputs, *of_real)
    parts = {
        "frepo: synthetic forward": "support features",
        "frepo: regression": "regression",
        "frepo: synthetic backward": "gradient of the images",
    }
    return found | {
        parts[event.key]: event.cpu_time_total / 1e6
        for event in profiler.key_averages()
        if event.key in parts
    }


def by_conjugate_gradients(network: FeatureNetwork, support: int) -> dict[str, float]:
    """Return the seconds of one solve and its iterations; a step needs two solves."""
    images, wanted = images_of(support, 3), targets_of(support)
    weights = {
        name: each.detach()
        for name, each in network.named_parameters()
        if name.startswith("body")
    }

    def logits(values: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(network, values, (images,))
        return found

    def solve() -> int:
        features = features_in_chunks(network, images)
        kernel = features @ features.mT
        pull = vjp(logits, weights)[1]

        def product(columns: Tensor) -> Tensor:
            (direction,) = pull(columns)
            moved: Tensor = jvp(logits, (weights,), (direction,))[1]
            return kernel @ columns + moved

        # The ridge is relative to the mean eigenvalue, estimated by one random vector.
        probe = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(4))
        mean = float((probe * product(probe)).sum()) / probe.numel()
        solution, rest = torch.zeros_like(wanted), wanted.clone()
        direction, size = rest.clone(), rest.square().sum()
        for iteration in range(1, 500):
            moved = product(direction) + RIDGE * mean * direction
            rate = size / (direction * moved).sum()
            solution += rate * direction
            rest -= rate * moved
            smaller = rest.square().sum()
            if float(smaller.sqrt()) < RESIDUAL * float(wanted.norm()):
                return iteration
            direction = rest + smaller / size * direction
            size = smaller
        return iteration

    with torch.no_grad():
        seconds, iterations = seconds_of(solve)
    return {"one solve": seconds, "iterations": iterations}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--support", type=int, default=80, help="images, with copies")
    parser.add_argument("--real", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    kernels = {
        "features": None,
        "tangent()": TangentKernel(),
        "tangent(projection=16)": TangentKernel(projection=16),
        "tangent(layers=1)": TangentKernel(layers=1),
        "tangent(layers=1, projection=16)": TangentKernel(layers=1, projection=16),
    }
    rounds: dict[str, list[dict[str, float]]] = {}
    for number in range(options.rounds + 1):
        for smooth in (False, True):
            network = model(options.width, smooth)
            mark = ", softplus" if smooth else ""
            for name, kernel in kernels.items():
                found = by_blocks(network, kernel, options.support, options.real)
                if number:  # the first round is a warm-up
                    rounds.setdefault(name + mark, []).append(found)
        if number:
            found = by_conjugate_gradients(model(options.width, True), options.support)
            rounds.setdefault("conjugate gradients", []).append(found)
    rows = []
    for name, parts in rounds.items():
        row = {key: statistics.median(each[key] for each in parts) for key in parts[0]}
        setting = {
            key: getattr(options, key) for key in ("width", "support", "real", "rounds")
        }
        rows.append({"kernel": name, **setting, **row})
        print(json.dumps(rows[-1]), flush=True)
    if options.out is not None:
        before = json.loads(options.out.read_text()) if options.out.exists() else []
        options.out.write_text(json.dumps([*before, *rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
