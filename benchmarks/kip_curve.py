"""Repeat the run published in KIP's notebook, and print both curves.

    python benchmarks/kip_curve.py --data-root DIR --out docs/benchmarks/kip-curve.json

CIFAR-10, the kernel of one hidden layer, 100 support images with fixed labels, 300
steps of Adam at 0.04, 5,000 real images a step. The scores are accuracies of kernel
regression on all 10,000 test images: like the notebook, this command reads them during
the run. They choose nothing.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

import dd_plugins
from dd_plugins.distillers.kip import KIP
from dd_plugins.functional.kernel_predictor import kernel_predictor
from dd_plugins.functional.kernel_regression import centred_targets
from dd_plugins.functional.ntk import FullyConnected
from dd_plugins.hookspecs import LazySet
from dd_plugins.plugins.manager import Plugins
from dd_plugins.training.outputs import accuracy

PUBLISHED = {
    0: 24.26,
    20: 41.41,
    40: 42.93,
    60: 43.85,
    100: 45.44,
    200: 46.23,
    300: 46.74,
}


class Curve:
    """An observer that scores kernel regression on test images at some steps."""

    def __init__(self, method: KIP, data: dd_plugins.RealData) -> None:
        self.method, self.data, self.test = method, data, data.read_test()
        self.found: dict[int, float] = {}

    def score(self, step: int, distilled: dd_plugins.DistilledSet) -> None:
        """Record the accuracy at a step."""
        classes = torch.tensor(distilled.header.initial_classes)
        predictor = kernel_predictor(
            self.method.kernel,
            distilled.images,
            # As in the notebook, labels are fixed.
            centred_targets(classes, self.data.num_classes),
        )
        score = accuracy(
            predictor, self.test, distilled.transform, device=torch.device("cpu")
        )
        self.found[step] = 100 * score
        print(f"step {step}: {100 * score:.2f}", flush=True)

    @dd_plugins.hookimpl
    def dd_after_step(self, step: int, distilled: LazySet) -> None:
        """Score the set, if the notebook does."""
        if step in PUBLISHED:
            self.score(step, distilled())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = dd_plugins.get_dataset("cifar10", data_root=options.data_root)
    method = KIP(kernel=FullyConnected(depth=1), real_batch_size=5_000)
    shared: dict[str, Any] = {"images_per_class": 10, "preprocessing": "standardize"}
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        curve = Curve(method, data)
        started = time.perf_counter()
        # The images of step 0: random real ones, left as they are.
        untouched = dd_plugins.distill(data, "random", seed=seed, **shared)
        curve.score(0, untouched)
        plugins = Plugins(load=[], extra={"curve": curve})
        dd_plugins.distill(
            data, method, seed=seed, steps=300, plugins=plugins, **shared
        )
        rows.append(
            {
                "seed": seed,
                "accuracy": curve.found,
                "seconds": time.perf_counter() - started,
                "threads": torch.get_num_threads(),
                "date": date.today().isoformat(),
            }
        )
    print("| step | published | " + " | ".join(f"seed {r['seed']}" for r in rows), "|")
    print("|---|---|" + "---|" * len(rows))
    for step, published in PUBLISHED.items():
        found = " | ".join(f"{row['accuracy'][step]:.2f}" for row in rows)
        print(f"| {step} | {published:.2f} | {found} |")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
