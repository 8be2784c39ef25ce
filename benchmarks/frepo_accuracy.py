r"""Measure accuracy against the time spent on distilling.

    python benchmarks/frepo_accuracy.py --dataset cifar10 --ipc 10 --minutes 30 \
        --data-root DIR --out DIR

The minutes are divided among networks, narrow ones first and wider ones last: the best
plan of the searches in docs/lab/frepo.md. A few steps of each are timed, and as many
are made as fit. Networks of the paper's width are trained on the result. ``--network``,
``--distiller``, ``--steps`` and ``--first`` replace this plan. The plan is printed as
these options; pass them with ``--resume`` to continue after an interruption.

The set is kept at an eighth, a quarter, a half and at the end of the last network's
steps. Networks trained on each are scored on validation images; five networks trained
on the last one are scored on the test set, which is read once. Writes the run, a JSON
file and a plot of both to the folder.
"""

import argparse
import json
import math
import platform
import shlex
import statistics
import sys
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from defaults import validation_accuracies

import dd_plugins
from dd_plugins.data.images import Images
from dd_plugins.data.real import RealData
from dd_plugins.engine.checkpoint import CHECKPOINT_NAME, load_checkpoint
from dd_plugins.errors import DDError
from dd_plugins.hookspecs import LazySet
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run
from dd_plugins.runtime.device import resolve_device
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.training.protocols import recipe_for
from dd_plugins.training.recipes import Recipe

FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
TIMED = range(16, 48)  # steps: after warm-up, whole visits
PAPERS_NETWORK = "conv(normalization='none')"  # of width 128


class Stage(NamedTuple):
    """A distillation on one network; the next stage refines its set."""

    network: str
    steps: int
    distiller: str


@dataclass(frozen=True)
class Plan:
    """A stage whose steps are not known yet.

    Attributes:
        network: the architecture to distil on.
        options: the options of FRePo.
        share: the fraction of all minutes.
        most_steps: the largest number of steps.
        learning_rate: the rate for 2,500 steps; it falls with the square root of the
            steps, within the range measured. None for FRePo's own, whatever the steps.
    """

    network: str
    options: str
    share: float
    most_steps: float = math.inf
    learning_rate: float | None = None

    def distiller(self, steps: int) -> str:
        """Return FRePo's spec for this many steps."""
        if self.learning_rate is None:
            return f"frepo({self.options})"
        rate = self.learning_rate * math.sqrt(2500 / steps)
        rate = min(max(rate, 1e-3), 5e-3)
        return f"frepo(learning_rate={rate:.2g}, {self.options})"


def plans(data: RealData, images_per_class: int) -> list[Plan]:
    """Return the best plans of the searches in docs/lab/frepo.md.

    Stages longer than ``most_steps`` were not measured, or did worse.
    """
    colour = data.image_shape[0] == 3
    normalization = ", normalization='none'" if colour else ""
    narrow, wider = (f"conv(width={width}{normalization})" for width in (32, 64))
    if images_per_class * data.num_classes <= 50:
        if colour:
            few = "real_batch_size=128, max_online_updates=300, learning_rate=0.005"
            return [Plan(narrow, few, 1, most_steps=10_000)]
        return [Plan(narrow, "", 1, most_steps=4_000)]
    options = "max_online_updates=300" if colour else "online_learning_rate=0.001"
    return [
        Plan(narrow, options, 1 / 3, learning_rate=3e-3),
        Plan(wider, options, 2 / 3, learning_rate=1.8e-3),
    ]


def scored_recipe(distilled: DistilledSet, steps: int | None) -> Recipe:
    """Return the set's own recipe, with this many steps unless None."""
    recipe = recipe_for(distilled)
    return recipe if steps is None else replace(recipe, steps=steps)


class Clock:
    """An observer that records the end of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @dd_plugins.hookimpl
    def dd_before_run(self, run: Run) -> None:
        """Start the clock."""
        self.seconds = [time.perf_counter()]

    @dd_plugins.hookimpl
    def dd_after_step(self) -> None:
        """Record the time."""
        self.seconds.append(time.perf_counter())

    def step_seconds(self) -> float:
        """Return the mean seconds of a step, over the timed steps."""
        return (self.seconds[TIMED.stop] - self.seconds[TIMED.start]) / len(TIMED)


class Snapshots:
    """An observer that keeps the set at some fractions of the run, and its seconds."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, DistilledSet]] = []

    @dd_plugins.hookimpl
    def dd_after_step(
        self, run: Run, step: int, metrics: dict[str, float], distilled: LazySet
    ) -> None:
        """Keep the set at the chosen fractions."""
        if step in {round(run.steps * fraction) for fraction in FRACTIONS}:
            self.kept.append((metrics["seconds"], distilled()))


def no_images(data: RealData) -> Images:
    """Return an empty set of validation images."""
    return Images(data.validation.images[:0], data.validation.labels[:0])


def steps_that_fit(
    data: RealData, minutes: float, options: dict[str, Any], spec: str
) -> int:
    """Return how many steps fit into the minutes, from the time of a few.

    A tenth of the minutes is left for all that is not timed: the transform, and a
    machine that has become slower.
    """
    clock = Clock()
    plugins = Plugins(load=[], extra={"clock": clock})
    dd_plugins.distill(
        replace(data, validation=no_images(data)),
        spec,
        steps=TIMED.stop + 1,
        plugins=plugins,
        **options,
    )
    return max(1, int(0.9 * 60 * minutes / clock.step_seconds()))


def planned_stages(
    data: RealData, minutes: float, shared: dict[str, Any]
) -> list[Stage]:
    """Return the stages that fit into the minutes."""
    stages = []
    for plan in plans(data, shared["images_per_class"]):
        options = {**shared, "network": plan.network}
        fit = steps_that_fit(
            data, plan.share * minutes, options, plan.distiller(TIMED.stop)
        )
        steps = int(min(fit, plan.most_steps))
        stages.append(Stage(plan.network, steps, plan.distiller(steps)))
    return stages


def given_stages(
    data: RealData, options: argparse.Namespace, shared: dict[str, Any]
) -> list[Stage]:
    """Return the stages of the command line."""
    network = options.network or "conv"
    spec = options.distiller or "frepo"
    steps = options.steps or steps_that_fit(
        data, options.minutes, {**shared, "network": network}, spec
    )
    first = [Stage(each[0], int(each[1]), each[2]) for each in options.first]
    return [*first, Stage(network, steps, spec)]


def words(stages: list[Stage], scored: str | None) -> str:
    """Return the options that ask for these stages."""
    *first, last = stages
    asked = [
        word
        for stage in first
        for word in ("--first", stage.network, str(stage.steps), stage.distiller)
    ]
    asked += ["--network", last.network, "--steps", str(last.steps)]
    asked += ["--distiller", last.distiller]
    if scored is not None:
        asked += ["--evaluation-network", scored]
    return shlex.join(asked)


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
    if test is not None:
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


def command_line() -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int, help="instead of as many as fit")
    parser.add_argument("--distiller", help="frepo, if not narrow networks come first")
    parser.add_argument(
        "--network", help="on which is distilled; conv, if not narrow ones come first"
    )
    parser.add_argument(
        "--first",
        nargs=3,
        action="append",
        default=[],
        metavar=("NETWORK", "STEPS", "DISTILLER"),
        help="distil so first, in OUT-first-1, and refine that set; may be repeated",
    )
    parser.add_argument(
        "--evaluation-network",
        help=f"{PAPERS_NETWORK} if narrow networks come first, or else the set's own",
    )
    parser.add_argument("--initial-images", help="real, noise, or a core set")
    parser.add_argument(
        "--networks", type=int, default=5, help="for the test; 0 leaves it unread"
    )
    parser.add_argument("--validation-networks", type=int, default=1, help="or 0")
    parser.add_argument(
        "--training-steps",
        type=int,
        help="of each network that is scored, in place of its recipe's",
    )
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
    return options


@dataclass(frozen=True)
class Distilled:
    """A set, the sets kept on the way with their seconds, and its own seconds."""

    distilled: DistilledSet
    sooner: list[tuple[float, DistilledSet]]
    seconds: float


def distil(
    data: RealData,
    stages: list[Stage],
    options: argparse.Namespace,
    shared: dict[str, Any],
) -> Distilled:
    """Distil on one network after another, in folders beside --out, the last in it."""
    snapshots = Snapshots()
    seconds, sooner, distilled = 0.0, 0.0, None
    unvalidated = replace(data, validation=no_images(data))  # it would take the time
    for place, stage in enumerate(stages, start=1):
        is_last = place == len(stages)
        folder = options.out
        if is_last:
            sooner = seconds
        else:
            folder = folder.with_name(f"{folder.name}-first-{place}")
        if options.resume:
            seconds += seconds_spent(folder)
        started = time.perf_counter()
        distilled = dd_plugins.distill(
            unvalidated,
            stage.distiller,
            network=stage.network,
            steps=stage.steps,
            out=folder,
            overwrite=options.overwrite,
            resume=options.resume,
            progress=True,
            plugins=Plugins(load=[], extra={"snapshots": snapshots} if is_last else {}),
            initial_images=options.initial_images if distilled is None else None,
            context=distilled,
            refine_context=distilled is not None,
            **shared,
        )
        seconds += time.perf_counter() - started
    assert distilled is not None
    kept = [(sooner + at, each) for at, each in snapshots.kept]
    return Distilled(distilled, kept, seconds)


def main() -> None:
    options = command_line()
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    shared: dict[str, Any] = {
        "images_per_class": options.ipc,
        "seed": options.seed,
        "device": options.device,
    }
    scored = options.evaluation_network
    if options.network or options.distiller or options.steps or options.first:
        stages = given_stages(data, options, shared)
    else:
        stages = planned_stages(data, options.minutes, shared)
        scored = scored or PAPERS_NETWORK
    print(words(stages, scored), flush=True)
    found = distil(data, stages, options, shared)
    distilled = found.distilled
    device = resolve_device(options.device)
    scored = scored or distilled.header.evaluation_network
    validation = [
        {
            "seconds": at,
            "accuracies": validation_accuracies(
                kept,
                data,
                options.validation_networks,
                device,
                scored,
                recipe=scored_recipe(kept, options.training_steps),
            ),
        }
        for at, kept in [*found.sooner, (found.seconds, distilled)]
        if options.validation_networks > 0
    ]
    started = time.perf_counter()
    tested = None
    if options.networks > 0:
        report = dd_plugins.evaluate(
            distilled,
            [scored],
            repeats=options.networks,
            data=data,
            protocol=scored_recipe(distilled, options.training_steps),
            device=options.device,
            on_progress=lambda what, done, total: print(
                f"{what}, {done} of {total}", flush=True
            ),
        )
        tested = report.networks[0].as_dict()
    result = {
        "dataset": options.dataset,
        "images_per_class": options.ipc,
        "distiller": distilled.header.distiller,
        "network": distilled.header.network,
        "first": stages[:-1],
        "evaluation_network": scored,
        "initial_images": options.initial_images,
        "steps": stages[-1].steps,
        "seed": options.seed,
        "seconds": found.seconds,
        "evaluation_seconds": time.perf_counter() - started,
        "validation": validation,
        "training_steps": options.training_steps,
        "test": tested,
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
    try:
        main()
    except DDError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Error: stopped; --resume goes on, with the options printed above")
