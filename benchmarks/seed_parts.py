r"""Measure which part of a seed moves FRePo's accuracy, and if short runs show it.

    python benchmarks/seed_parts.py --dataset cifar10 --ipc 1 --steps 400 --seeds 5 \
        --short-steps 100,200 --data-root DIR --out FILE

Every draw of a run has a purpose. Runs of one part change the seed of its purposes, and
keep seed 0 for the others. The parts are the real images at the start; the weights of
the pool's models, their turns and the draws of their kernel; the real batches; the
augmentations. Runs of all parts change the seed of every draw. They are made with
``--short-steps`` as well, each with its whole schedule, as in
``dd-plugins distill --restarts``.

The same fresh networks are trained on every set and scored on validation images. Rows
already in FILE are not made again.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from defaults import validation_accuracies
from rows import Row, add_row, is_made, made_rows
from scipy.stats import spearmanr

import dd_plugins
from dd_plugins.data.real import RealData
from dd_plugins.runtime.randomness import generator_for

# How the purposes of each part begin:
PARTS = {
    "start": ("initial images",),
    "pool": ("pool model", "pool visit", "online batch", "kernel"),
    "real batches": ("batch",),
    "augmentations": ("augmentation", "online augmentation"),
}
ALL = "all"
_SETTING = ("dataset", "ipc", "network", "distiller", "networks")


@contextmanager
def seed_of_part(part: str, seed: int) -> Iterator[None]:
    """Within the context, let runs draw a part by its own seed."""

    def drawn(
        run_seed: int, purpose: str, step: int = 0, rank: int = 0
    ) -> torch.Generator:
        own = part == ALL or purpose.startswith(PARTS[part])
        return generator_for(seed if own else run_seed, purpose, step, rank)

    with (
        mock.patch("dd_plugins.run.generator_for", drawn),
        mock.patch("dd_plugins.data.sampler.generator_for", drawn),
    ):
        yield


def measure(
    options: argparse.Namespace, data: RealData, part: str, seed: int, steps: int
) -> None:
    """Distil once, score the set on validation images, and add the row."""
    key = {
        **{name: getattr(options, name) for name in _SETTING},
        "steps": steps,
        "part": part,
        "seed": seed,
    }
    if is_made(rows_of(options.out), list(key), list(key.values())):
        return
    started = time.perf_counter()
    with seed_of_part(part, seed):
        distilled = dd_plugins.distill(
            data,
            options.distiller,
            images_per_class=options.ipc,
            steps=steps,
            seed=0,
            network=options.network,
        )
    seconds = time.perf_counter() - started
    found = validation_accuracies(distilled, data, options.networks)
    row = {**key, "seconds": round(seconds, 1), "validation_accuracies": found}
    print(json.dumps(row), flush=True)
    add_row(options.out, row)


def rows_of(path: Path) -> list[Row]:
    """Return the rows of a file; earlier ones get the number of their networks."""
    return [
        {"networks": len(row["validation_accuracies"])} | row for row in made_rows(path)
    ]


def report(rows: list[Row], steps: int) -> None:
    """Print the spread of each part, and the correlation of short and long runs.

    The spread of a part includes the remaining noise of the networks' mean.
    """
    means = {
        (row["part"], row["steps"], row["seed"]): statistics.mean(
            row["validation_accuracies"]
        )
        for row in rows
    }
    spreads = [
        statistics.variance(row["validation_accuracies"])
        for row in rows
        if row["steps"] == steps and len(row["validation_accuracies"]) > 1
    ]
    if spreads:
        within = math.sqrt(statistics.mean(spreads))
        print(f"networks of one set: standard deviation {100 * within:.2f}")
    for part in (*PARTS, ALL):
        found = [
            mean
            for (made, length, seed), mean in means.items()
            if length == steps and (made == part or (made, seed) == (ALL, 0))
        ]
        if len(found) > 1:
            print(
                f"{part}: {len(found)} sets, standard deviation "
                f"{100 * statistics.stdev(found):.2f}, range "
                f"{100 * min(found):.1f} to {100 * max(found):.1f}"
            )
    seeds = sorted(seed for part, made, seed in means if (part, made) == (ALL, steps))
    for short in sorted({key[1] for key in means} - {steps}):
        both = [seed for seed in seeds if (ALL, short, seed) in means]
        if len(both) > 2:
            brief = [means[ALL, short, seed] for seed in both]
            whole = [means[ALL, steps, seed] for seed in both]
            best = whole[brief.index(max(brief))]
            print(
                f"{short} steps for {steps}: rank correlation "
                f"{spearmanr(brief, whole).statistic:.2f} of {len(both)} seeds; the "
                f"best short run's seed gives {100 * best:.1f}, a seed at random "
                f"{100 * statistics.mean(whole):.1f}, the best {100 * max(whole):.1f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--network", default="conv(width=32)")
    parser.add_argument("--distiller", default="frepo")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--short-steps", default="")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    short = [int(steps) for steps in options.short_steps.split(",") if steps]
    for seed in range(options.seeds):
        for steps in (options.steps, *short):
            measure(options, data, ALL, seed, steps)
        for part in PARTS if seed else ():
            measure(options, data, part, seed, options.steps)
    wanted = {name: getattr(options, name) for name in _SETTING}
    rows = [row for row in rows_of(options.out) if wanted.items() <= row.items()]
    report(rows, options.steps)


if __name__ == "__main__":
    main()
