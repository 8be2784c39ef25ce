r"""Compare methods with labels from a teacher: hard labels beside the teacher's.

    python benchmarks/decoupled.py --dataset cifar10 --ipc 10 --steps 300 --seeds 3 \
        --distiller rded --distiller "sre2l(preset='paper')" --distiller sre2l \
        --out FILE.json
    python benchmarks/decoupled.py --table FILE.json

Each distillation runs in a process of its own, so its peak memory is its own; the first
of them trains the teacher, which is kept and serves all seeds. A network is trained on
the set with the teacher's labels and with hard labels, and on as many random real
images with both, in the same views and by the same recipe. The test set is read once
for each set; ``--validation`` scores on validation images instead, for searches. A row
is added to the JSON file as soon as it is made; rows already there are not made again.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rows import added_rows, given, is_made, made_rows, peak_mebibytes, percent

import dd_plugins
import dd_plugins.api
from dd_plugins.data.images import Images
from dd_plugins.errors import DDError
from dd_plugins.evaluation.evaluate import EvaluationOptions, prepare_evaluation

KEY = (
    *("dataset", "images_per_class", "distiller_asked", "network", "steps"),
    *("evaluated_on", "epochs", "networks", "taught_only", "evaluation_networks"),
    "seed",
)
GROUP = KEY[:-1]  # rows of several seeds are one line of the table
ARMS = ("taught", "hard", "taught_random", "random")
TITLES = {
    "taught": "teacher's labels",
    "hard": "hard labels",
    "taught_random": "random images, teacher's labels",
    "random": "random images, hard labels",
}


def distilled_for(options: argparse.Namespace) -> dict[str, Any]:
    """Distil once in this process, evaluate, and return the row."""
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    nothing = Images(data.validation.images[:0], data.validation.labels[:0])
    quiet = replace(data, validation=nothing)  # nothing is measured on the way
    if options.validation:
        held_out = data.validation
        data = replace(quiet, read_test=lambda: held_out)
    (spec,) = options.distiller
    started = time.perf_counter()
    distilled = dd_plugins.distill(
        quiet,
        spec,
        images_per_class=options.ipc,
        network=options.network,
        steps=options.steps,
        seed=options.seed,
    )
    seconds = time.perf_counter() - started
    peak = peak_mebibytes()
    if options.save:
        distilled.save(options.save)
    protocol = "auto"
    if options.epochs:
        recipe = dd_plugins.api.recipe_for(distilled)
        epochs = options.epochs * max(1, len(distilled) // recipe.batch_size)
        protocol = repr(replace(recipe, steps=epochs))
    found = prepare_evaluation(
        distilled,
        options.evaluation_network or (),
        EvaluationOptions(
            repeats=options.networks,
            protocol=protocol,
            data=data,
            seed=options.seed,
            compare_labels=not options.taught_only,
        ),
    )()
    results = {
        "taught": found.networks,
        "hard": found.hard,
        "taught_random": found.taught_random,
        "random": found.random,
    }
    return {
        "dataset": options.dataset,
        "images_per_class": options.ipc,
        "distiller_asked": spec,
        "distiller": distilled.header.distiller,
        "network": options.network,
        "steps": options.steps,
        "seed": options.seed,
        "seconds": seconds,
        "peak_mib": peak,
        "evaluated_on": evaluated_on(options),
        "epochs": options.epochs,
        "networks": options.networks,
        "taught_only": options.taught_only,
        "evaluation_networks": "; ".join(options.evaluation_network) or None,
        "recipe": repr(found.recipe),
        "accuracies": {
            arm: {each.spec: list(each.accuracies) for each in results[arm]}
            for arm in ARMS
        },
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }


def evaluated_on(options: argparse.Namespace) -> str:
    """Return the name of the images that score the networks."""
    return "validation" if options.validation else "test"


def missing_rows(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield each distiller and seed without a row, and the command that makes it."""
    jobs = [(spec, seed) for seed in range(options.seeds) for spec in options.distiller]
    for spec, seed in jobs:
        wanted = (
            options.dataset,
            options.ipc,
            spec,
            options.network,
            options.steps,
            evaluated_on(options),
            options.epochs,
            options.networks,
            options.taught_only,
            "; ".join(options.evaluation_network) or None,
            seed,
        )
        if is_made(made_rows(options.out), KEY, wanted):
            continue
        command = [
            *(__file__, "--single", "--distiller", spec),
            *("--dataset", options.dataset, "--ipc", str(options.ipc)),
            *("--network", options.network, "--seed", str(seed)),
            *("--networks", str(options.networks)),
        ]
        command += given(options, "data_root", "steps", "epochs", "save")
        command += given(options, "validation", "taught_only")
        for network in options.evaluation_network:
            command += ["--evaluation-network", network]
        yield f"{spec}, seed {seed}", command


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: a line for each distiller, over its seeds."""
    lines = [
        "| data | images per class | distiller | network | scored on | runs | seconds "
        f"| peak MiB | {' | '.join(TITLES[arm] for arm in ARMS)} |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row.get(name) for name in GROUP)
        groups.setdefault(key, []).append(row)
    for (data, per_class, name, *_), same in groups.items():
        for network in same[0]["accuracies"]["taught"]:
            cells = [_figure(same, arm, network) for arm in ARMS]
            seconds = statistics.median(row["seconds"] for row in same)
            peak = statistics.median(row["peak_mib"] for row in same)
            lines.append(
                f"| {data} | {per_class} | `{name}` | `{network}` "
                f"| {same[0]['evaluated_on']} images | {len(same)} "
                f"| {seconds:.0f} | {peak:,.0f} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def _figure(rows: list[dict[str, Any]], arm: str, network: str) -> str:
    """Return the mean over runs, each the mean over its networks, and its interval."""
    means = [
        statistics.mean(row["accuracies"][arm][network])
        for row in rows
        if network in row["accuracies"][arm]
    ]
    return percent(means)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--distiller", action="append", default=[])
    parser.add_argument(
        "--network", default="resnet18(width=16, normalization='batch')"
    )
    parser.add_argument("--evaluation-network", action="append", default=[])
    parser.add_argument("--steps", type=int, help="of a distillation")
    parser.add_argument("--epochs", type=int, help="of networks on the set")
    parser.add_argument("--networks", type=int, default=1, help="on each set")
    parser.add_argument("--seeds", type=int, default=3, help="distillations")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--taught-only", action="store_true", help="no hard labels")
    parser.add_argument("--save", type=Path, help="keep the last set here")
    parser.add_argument("--out", type=Path, help="JSON file to which rows are added")
    parser.add_argument("--table", type=Path, help="print the table of a JSON file")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(made_rows(options.table)))
    elif options.single:
        print(json.dumps(distilled_for(options)))
    elif not options.distiller or options.out is None:
        parser.error("--distiller and --out are required")
    else:
        for row in added_rows(options.out, missing_rows(options)):
            print(table([row]), flush=True)


if __name__ == "__main__":
    try:
        main()
    except DDError as error:
        sys.exit(f"Error: {error}")
