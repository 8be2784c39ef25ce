"""Measure accuracy against the time spent on distilling.

    python benchmarks/frepo_accuracy.py --dataset cifar10 --ipc 10 --minutes 30 \
        --data-root DIR --out DIR

First a few steps are timed; then one run is made of as many steps as fit into the
minutes; with ``--first``, of a set that narrower networks distilled before. The set is
kept at an eighth, a quarter, a half and at the end of them. Networks trained on each
are scored on validation images; five networks trained on the last one are scored on the
test set, which is read once. Writes the run, a JSON file and a plot of both to the
folder.
"""

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from defaults import validation_accuracies

import dd_plugins
from dd_plugins.artifact import DistilledSet
from dd_plugins.checkpoint import CHECKPOINT_NAME, load_checkpoint
from dd_plugins.data import Images, RealData
from dd_plugins.hookspecs import LazySet
from dd_plugins.plugins import Plugins
from dd_plugins.run import Run, resolve_device

FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
TIMED = range(16, 48)  # steps: after warm-up, whole visits


class Clock:
    """An observer that notes when each step ended."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @dd_plugins.hookimpl
    def dd_before_run(self, run: Run) -> None:
        """Start."""
        self.seconds = [time.perf_counter()]

    @dd_plugins.hookimpl
    def dd_after_step(self) -> None:
        """Note the time."""
        self.seconds.append(time.perf_counter())

    def step_seconds(self) -> float:
        """Return the mean seconds of a step, over the steps that count."""
        return (self.seconds[TIMED.stop] - self.seconds[TIMED.start]) / len(TIMED)


class Snapshots:
    """An observer that keeps the set at some fractions of the run, and its seconds."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, DistilledSet]] = []

    @dd_plugins.hookimpl
    def dd_after_step(
        self, run: Run, step: int, metrics: dict[str, float], distilled: LazySet
    ) -> None:
        """Keep the set, if it is time."""
        if step in {round(run.steps * fraction) for fraction in FRACTIONS}:
            self.kept.append((metrics["seconds"], distilled()))


def steps_that_fit(
    data: RealData, minutes: float, options: dict[str, Any], spec: str
) -> int:
    """Return how many steps take that long, from the time of a few.

    They are timed without validation, which in a long run takes next to nothing.
    """
    clock = Clock()
    plugins = Plugins(load=[], extra={"clock": clock})
    nothing = Images(data.validation.images[:0], data.validation.labels[:0])
    dd_plugins.distill(
        replace(data, validation=nothing),
        spec,
        steps=TIMED.stop + 1,
        plugins=plugins,
        **options,
    )
    return max(1, int(0.97 * 60 * minutes / clock.step_seconds()))


def seconds_spent(run: Path) -> float:
    """Return the seconds that the steps of a run took up to its checkpoint."""
    checkpoint = run / CHECKPOINT_NAME
    if not checkpoint.exists():
        return 0.0
    return float(load_checkpoint(checkpoint)["seconds"])


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw accuracy against minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    points = result["validation"]
    if points:
        axes.plot(
            [point["seconds"] / 60 for point in points],
            [100 * statistics.mean(point["accuracies"]) for point in points],
            "o-",
            label="validation images",
        )
    test = result["test"]
    low, high = test["accuracy_ci95"] or (test["accuracy_mean"],) * 2
    mean = test["accuracy_mean"]
    axes.errorbar(
        [result["seconds"] / 60],
        [100 * mean],
        yerr=[[100 * (mean - low)], [100 * (high - mean)]],
        fmt="s",
        capsize=4,
        label=f"test images, {len(test['accuracies'])} networks",
    )
    axes.set_xlabel("minutes of distilling")
    axes.set_ylabel("accuracy in %")
    axes.set_title(
        f"{result['dataset']}, images per class: {result['images_per_class']}"
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int, help="instead of as many as fit")
    parser.add_argument("--distiller", default="frepo")
    parser.add_argument("--network", default="conv", help="on which is distilled")
    parser.add_argument(
        "--first",
        nargs=3,
        action="append",
        default=[],
        metavar=("NETWORK", "STEPS", "DISTILLER"),
        help="distil so first, in OUT-first-1, and refine that set; may be repeated",
    )
    parser.add_argument("--evaluation-network", help="by default the set's own")
    parser.add_argument("--initial-images", help="real, noise, or a core set")
    parser.add_argument("--networks", type=int, default=5, help="for the test")
    parser.add_argument("--validation-networks", type=int, default=1, help="or 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, of as many --steps; the sets that it kept "
        "on its way are not scored",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the runs that are there"
    )
    options = parser.parse_args()
    if options.resume and not options.steps:
        parser.error("--resume goes with --steps")
    for _, first_steps, _ in options.first:
        if not first_steps.isdecimal():
            parser.error(f"--first takes a number of steps, got {first_steps!r}")
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    shared: dict[str, Any] = {
        "images_per_class": options.ipc,
        "network": options.network,
        "seed": options.seed,
        "device": options.device,
    }
    steps = options.steps or steps_that_fit(
        data, options.minutes, shared, options.distiller
    )
    snapshots = Snapshots()
    stages = [
        (options.out.with_name(f"{options.out.name}-first-{place}"), *first)
        for place, first in enumerate(options.first, start=1)
    ]
    stages.append((options.out, options.network, steps, options.distiller))
    seconds, sooner, distilled = 0.0, 0.0, None
    for folder, network, stage_steps, spec in stages:
        is_last = folder == options.out
        if is_last:
            sooner = seconds
        if options.resume:
            seconds += seconds_spent(folder)
        started = time.perf_counter()
        distilled = dd_plugins.distill(
            data,
            spec,
            steps=int(stage_steps),
            out=folder,
            overwrite=options.overwrite,
            resume=options.resume,
            progress=True,
            plugins=Plugins(load=[], extra={"snapshots": snapshots} if is_last else {}),
            initial_images=options.initial_images if distilled is None else None,
            context=distilled,
            refine_context=distilled is not None,
            **{**shared, "network": network},
        )
        seconds += time.perf_counter() - started
    assert distilled is not None
    device = resolve_device(options.device)
    scored = options.evaluation_network or distilled.header.evaluation_network
    validation = [
        {
            "seconds": at,
            "accuracies": validation_accuracies(
                kept, data, options.validation_networks, device, scored
            ),
        }
        for at, kept in [
            *((sooner + at, kept) for at, kept in snapshots.kept),
            (seconds, distilled),
        ]
        if options.validation_networks > 0
    ]
    started = time.perf_counter()
    found = dd_plugins.evaluate(
        distilled, [scored], repeats=options.networks, data=data, device=options.device
    )
    result = {
        "dataset": options.dataset,
        "images_per_class": options.ipc,
        "distiller": distilled.header.distiller,
        "network": distilled.header.network,
        "first": options.first,
        "evaluation_network": scored,
        "initial_images": options.initial_images,
        "steps": steps,
        "seed": options.seed,
        "seconds": seconds,
        "evaluation_seconds": time.perf_counter() - started,
        "validation": validation,
        "test": found.networks[0].as_dict(),
        "device": str(device),
        "precision": distilled.header.precision,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))
    (options.out / "accuracy.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(result, options.out / "accuracy.png")


if __name__ == "__main__":
    main()
