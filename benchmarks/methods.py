r"""Compare distillers with the same data, network, seconds and threads.

    python benchmarks/methods.py --dataset cifar10 --ipc 1 --seconds 300 \
        --network "dc_convnet(width=32)" --distiller dsa --distiller dm --out FILE.json
    python benchmarks/methods.py --table FILE.json

Each distiller runs in a process of its own, so its peak memory is its own. A few of its
steps are timed, and as many made as fit into the seconds. The set is kept at a few
fractions of the run; a network trained on each is scored on validation images. Five
networks trained on the last set are scored on the test set, which is read once. A row
is added to the JSON file as soon as it is made; rows already there are not made again.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from defaults import validation_accuracies
from rows import (
    Row,
    added_rows,
    given,
    is_made,
    made_rows,
    peak_mebibytes,
    percent,
)

import dd_plugins
from dd_plugins.data.images import Images
from dd_plugins.data.real import RealData
from dd_plugins.errors import DDError
from dd_plugins.hookspecs import LazySet
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.artifact import DistilledSet

FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
PROBE = range(2, 6)  # steps that are timed, after those that warm up
LEAST_PROBE_SECONDS = 5.0
KEY = (
    *("dataset", "images_per_class", "distiller_asked", "network", "seconds_asked"),
    *("evaluation_network_asked", "seed", "most_steps"),
    *("validation_networks", "test_networks"),
)
RACE = (  # fields that are alike in rows compared by the seconds to an accuracy
    *("dataset", "images_per_class", "seconds_asked", "evaluation_network_asked"),
    *("seed", "validation_networks"),
)


class Watch:
    """An observer that records the seconds of each step, and keeps the set at some."""

    def __init__(self, fractions: tuple[float, ...] = ()) -> None:
        self.fractions = fractions
        self.seconds: list[float] = []
        self.kept: list[tuple[float, DistilledSet]] = []

    @dd_plugins.hookimpl
    def dd_after_step(
        self, run: Run, step: int, metrics: dict[str, float], distilled: LazySet
    ) -> None:
        """Record the time, and keep the set at the chosen fractions."""
        self.seconds.append(metrics["seconds"])
        if step in {round(run.steps * fraction) for fraction in self.fractions}:
            self.kept.append((metrics["seconds"], distilled()))


def takes_one_step(spec: str, data: RealData, images_per_class: int) -> bool:
    """Return whether a method, such as a core set, takes one step, however long."""
    task = Task(
        data.name,
        data.image_shape,
        data.num_classes,
        images_per_class,
        None,
        data.mirror,
    )
    return dd_plugins.get_distiller(spec).default_steps(task) == 1


def distilled_for(options: argparse.Namespace) -> dict[str, Any]:
    """Distil once in this process, and return the row."""
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    nothing = Images(data.validation.images[:0], data.validation.labels[:0])
    quiet = replace(data, validation=nothing)  # validation is measured after the run
    (spec,) = options.distiller
    one_step = takes_one_step(spec, data, options.ipc)
    shared: dict[str, Any] = {
        "images_per_class": options.ipc,
        "seed": options.seed,
        "network": options.network,
    }

    def run(steps: int, watch: Watch) -> DistilledSet:
        plugins = Plugins(extra={"watch": watch})
        return dd_plugins.distill(quiet, spec, steps=steps, plugins=plugins, **shared)

    started = time.perf_counter()
    steps = PROBE.stop
    while True:
        watch = Watch()
        run(steps, watch)
        if watch.seconds[-1] >= LEAST_PROBE_SECONDS or one_step:
            break
        steps *= 4
    probed = time.perf_counter() - started
    timed = watch.seconds[PROBE.start :]
    each = (timed[-1] - watch.seconds[PROBE.start - 1]) / len(timed)
    steps = 1 if one_step else max(1, int(options.seconds / each))
    if options.most_steps:
        steps = min(steps, options.most_steps)
    watch = Watch(FRACTIONS)
    before = peak_mebibytes()
    started = time.perf_counter()
    distilled = run(steps, watch)
    seconds = time.perf_counter() - started
    peak = peak_mebibytes()
    curve = [
        {
            "seconds": at,
            "accuracies": validation_accuracies(
                kept, data, options.validation_networks
            ),
        }
        for at, kept in [*watch.kept, (watch.seconds[-1], distilled)]
        if options.validation_networks
    ]
    tested, kernel = None, None
    if options.test_networks:
        found = dd_plugins.evaluate(
            distilled,
            options.evaluation_network or (),
            repeats=options.test_networks,
            scores="kernel" if "kip" in spec else None,
            data=data,
        )
        tested = found.networks[0].as_dict()
        kernel = found.kernel and found.kernel.mean
    return {
        "dataset": options.dataset,
        "images_per_class": options.ipc,
        "distiller_asked": spec,
        "distiller": distilled.header.distiller,
        "network": options.network,
        "seconds_asked": options.seconds,
        "evaluation_network_asked": options.evaluation_network,
        "seed": options.seed,
        "most_steps": options.most_steps,
        "validation_networks": options.validation_networks,
        "test_networks": options.test_networks,
        "steps": steps,
        "seconds_per_step": each,
        "preparation_seconds": probed,
        "seconds": seconds,
        "peak_mib": peak,
        "peak_mib_of_probe": before,
        "learned": distilled.header.learned,
        "validation": curve,
        "test": tested,
        "kernel": kernel,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }


def rows_of(path: Path) -> list[Row]:
    """Return the rows of a file; earlier ones get the numbers of their networks."""
    return [
        {
            "validation_networks": max(
                (len(point["accuracies"]) for point in row["validation"]), default=0
            ),
            "test_networks": len((row["test"] or {}).get("accuracies", ())),
        }
        | row
        for row in made_rows(path)
    ]


def missing_rows(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield each distiller without a row, and the command that makes it."""
    for spec in options.distiller:
        wanted = (
            options.dataset,
            options.ipc,
            spec,
            options.network,
            options.seconds,
            options.evaluation_network,
            options.seed,
            options.most_steps,
            options.validation_networks,
            options.test_networks,
        )
        if is_made(rows_of(options.out), KEY, wanted):
            continue
        command = [
            *(__file__, "--single", "--distiller", spec),
            *("--dataset", options.dataset, "--ipc", str(options.ipc)),
            *("--network", options.network, "--seconds", str(options.seconds)),
            *("--validation-networks", str(options.validation_networks)),
            *("--test-networks", str(options.test_networks)),
            *("--seed", str(options.seed)),
        ]
        command += given(options, "data_root", "evaluation_network", "most_steps")
        yield spec, command


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table, with a line for each row."""
    lines = [
        "| data | images per class | distiller | network | steps | seconds | peak MiB "
        "| test accuracy, 95 % interval | kernel regression |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["test"] is None:
            continue
        kernel = f"{100 * row['kernel']:.1f}" if row.get("kernel") else ""
        lines.append(
            f"| {row['dataset']} | {row['images_per_class']} "
            f"| `{row['distiller_asked']}` | `{row['network']}` | {row['steps']:,} "
            f"| {row['seconds']:.0f} | {row['peak_mib']:,.0f} "
            f"| {percent(row['test']['accuracies'])} | {kernel} |"
        )
    return "\n".join(lines)


def passing(rows: list[dict[str, Any]]) -> str:
    """Return a table of the seconds until each passes DSA's and DM's last accuracy.

    The rival is the one on the same network, if there is one; else its best row.
    """
    lines = [
        "| data | images per class | distiller | validation accuracy (seconds) "
        "| passes `dsa` at | passes `dm` at |",
        "|---|---|---|---|---|---|",
    ]
    scored = [row for row in rows if row["validation"]]
    for row in scored:
        same = [
            each
            for each in scored
            if all(each.get(name) == row.get(name) for name in RACE)
        ]
        curve = ", ".join(
            f"{100 * mean(point):.1f} ({point['seconds']:.0f})"
            for point in row["validation"]
        )
        cells = [
            when(row, last_accuracy(same, rival, row["network"]))
            if row["distiller_asked"] != rival
            else ""
            for rival in ("dsa", "dm")
        ]
        lines.append(
            f"| {row['dataset']} | {row['images_per_class']} "
            f"| `{row['distiller_asked']}` | {curve} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def last_accuracy(rows: list[Row], distiller: str, network: str) -> float | None:
    """Return the last accuracy of a distiller, on this network if there is a row."""
    own = [row for row in rows if row["distiller_asked"] == distiller]
    alike = [row for row in own if row["network"] == network]
    return max((mean(row["validation"][-1]) for row in alike or own), default=None)


def when(row: dict[str, Any], figure: float | None) -> str:
    """Return the seconds of the first kept set with an accuracy above a figure."""
    if figure is None:
        return "not measured"
    for point in row["validation"]:
        if mean(point) > figure:
            return f"{point['seconds']:.0f} s"
    return "not reached"


def mean(point: dict[str, Any]) -> float:
    """Return the mean accuracy of a point of a curve."""
    found: float = statistics.mean(point["accuracies"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--distiller", action="append", default=[])
    parser.add_argument("--network", default="dc_convnet(width=32)")
    parser.add_argument("--evaluation-network", help="by default the set's own")
    parser.add_argument("--seconds", type=float, default=300.0, help="of distilling")
    parser.add_argument("--most-steps", type=int, help="where a run ends sooner")
    parser.add_argument("--validation-networks", type=int, default=1, help="or 0")
    parser.add_argument("--test-networks", type=int, default=5, help="or 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to which rows are added")
    parser.add_argument("--table", type=Path, help="print the tables of a JSON file")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        rows = rows_of(options.table)
        print(table(rows), passing(rows), sep="\n\n")
    elif options.single:
        print(json.dumps(distilled_for(options)))
    elif not options.distiller or options.out is None:
        parser.error("--distiller and --out are required")
    else:
        for row in added_rows(options.out, missing_rows(options)):
            print(table([row]), passing([row]), flush=True)


if __name__ == "__main__":
    try:
        main()
    except DDError as error:
        sys.exit(f"Error: {error}")
