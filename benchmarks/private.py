r"""Compare private distillers and private training at the same epsilon.

    python benchmarks/private.py --dataset mnist --ipc 1 --epsilon 1 --epsilon 10 \
        --distiller "dp_frepo" --distiller "dp_dm" --out FILE.json
    python benchmarks/private.py --table FILE.json

A spec is given without an epsilon, and gets each one in turn. ``trainer`` is a network
trained by DP-SGD on the same images; ``frepo``, ``dm`` and ``random`` are not private.
Networks are trained on each set and scored on validation images, which are left out of
the training images, or with ``--test`` on the test set, which is read once. A row is
added to the JSON file as soon as it is made; rows already there are not made again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rows import (
    Row,
    added_rows,
    given,
    grouped,
    is_made,
    made_rows,
    peak_mebibytes,
    percent,
)

import dd_plugins
from dd_plugins.data.images import Images
from dd_plugins.training.outputs import accuracy
from dd_privacy import PrivateTrainer

KEY = (
    *("dataset", "images_per_class", "method", "epsilon_asked", "network"),
    *("parametrization", "steps_asked", "scored_on", "evaluation_network_asked"),
    *("networks", "seed"),
)
TRAINER = "trainer"
PUBLIC = ("frepo", "dm", "random")


def data_of(options: argparse.Namespace) -> dd_plugins.RealData:
    """Return the data, with the images to score on as its test set."""
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    if options.test:
        return data.undivided()
    held_out = data.validation
    return replace(
        data,
        train_indices=torch.arange(len(data.train.labels)),
        validation=Images(held_out.images[:0], held_out.labels[:0]),
        read_test=lambda: held_out,
    )


def is_public(method: str) -> bool:
    """Return whether a method is not private, so it takes no epsilon."""
    return method.split("(", maxsplit=1)[0] in PUBLIC


def spec_of(method: str, epsilon: float) -> str:
    """Return the spec of a method with an epsilon, if it takes one."""
    if is_public(method):
        return method
    name, _, rest = method.partition("(")
    return f"{name}({epsilon:g}, {rest}" if rest else f"{name}({epsilon:g})"


def networks_of(method: str, options: argparse.Namespace) -> int:
    """Return the number of networks that a row scores."""
    return 1 if method.startswith(TRAINER) else options.networks


def made_row(options: argparse.Namespace) -> dict[str, Any]:
    """Make one row in this process."""
    data = data_of(options)
    (method,), (epsilon,) = options.distiller, options.epsilon
    row: dict[str, Any] = {
        "dataset": options.dataset,
        "images_per_class": options.ipc,
        "method": method,
        "epsilon_asked": epsilon,
        "network": options.network,
        "parametrization": options.parametrization,
        "steps_asked": options.steps,
        "evaluation_network_asked": options.evaluation_network,
        "networks": networks_of(method, options),
        "scored_on": "test" if options.test else "validation",
        "seed": options.seed,
    }
    started = time.perf_counter()
    if method.split("(")[0] == TRAINER:
        row |= trained(data, method, epsilon)
        row["seconds"] = time.perf_counter() - started - row.pop("scoring")
    else:
        run: dict[str, Any] = {
            "network": options.network,
            "steps": options.steps,
            "parametrization": options.parametrization,
        }
        distilled = dd_plugins.distill(
            data,
            spec_of(method, epsilon),
            images_per_class=options.ipc,
            seed=options.seed,
            data_root=options.data_root,
            **run,
        )
        row["seconds"] = time.perf_counter() - started
        found = dd_plugins.evaluate(
            distilled,
            options.evaluation_network or (),
            repeats=options.networks,
            data=data,
            seed=options.seed,
        )
        header = distilled.header
        privacy = None if header.privacy is None else header.privacy.model_dump()
        row |= {
            "distiller": header.distiller,
            "steps": header.steps,
            "privacy": privacy,
            "evaluation_network": found.networks[0].spec,
            "accuracies": list(found.networks[0].accuracies),
        }
    return row | {
        "peak_mib": peak_mebibytes(),
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }


def trained(data: dd_plugins.RealData, method: str, epsilon: float) -> dict[str, Any]:
    """Train a network by DP-SGD; return its accuracy and privacy."""
    trainer = PrivateTrainer(epsilon=epsilon, delta=1e-5)
    model = trainer.fit(
        data.train.images[:],
        data.train.labels,
        class_names=data.class_names,
        mirror=data.mirror,
    )
    started = time.perf_counter()
    scored = data.read_test()
    found = accuracy(model.network, scored, model.transform, device=torch.device("cpu"))
    return {
        "distiller": method,
        "steps": model.budget.steps,
        "privacy": {
            "epsilon": model.budget.epsilon,
            "noise_multiplier": model.budget.noise_multiplier,
        },
        "evaluation_network": trainer.network,
        "accuracies": [found],
        "scoring": time.perf_counter() - started,
    }


def rows_of(path: Path) -> list[Row]:
    """Return the rows of a file; earlier ones get the number of their networks."""
    return [{"networks": len(row["accuracies"])} | row for row in made_rows(path)]


def table(rows: list[Row]) -> str:
    """Return a Markdown table, with a line for the rows of all seeds of a setting.

    The seconds are a median, without those of rows with a remark.
    """
    lines = [
        "| data | images per class | method | epsilon | noise | steps | seconds | runs "
        "| accuracy of each | mean, 95 % interval of three or more |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    groups = sorted(
        grouped(rows, KEY[:-1]),
        key=lambda same: (
            datasets.index(same[0]["dataset"]),
            same[0]["images_per_class"],
        ),
    )
    for same in groups:
        first, privacy = same[0], same[0]["privacy"]
        size = (
            "all" if first["method"].startswith(TRAINER) else first["images_per_class"]
        )
        each = [statistics.mean(row["accuracies"]) for row in same]
        timed = [row["seconds"] for row in same if "remark" not in row]
        seconds = f"{statistics.median(timed):,.0f}" if timed else ""
        behind = first["parametrization"]
        method = first["method"] + ("" if behind == "identity" else f", {behind}")
        epsilon, noise = "none", ""
        if privacy is not None:
            epsilon = f"{privacy['epsilon']:.2f}"
            noise = f"{privacy['noise_multiplier']:.2f}"
        mean = percent(each if len(each) > 2 else [statistics.mean(each)])
        lines.append(
            f"| {first['dataset']} | {size} | `{method}` | {epsilon} | {noise} "
            f"| {first['steps']:,} | {seconds} | {len(same)} "
            f"| {', '.join(percent([one]) for one in each)} | {mean} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make the missing rows, each in a process of its own; or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--epsilon", type=float, action="append")
    parser.add_argument("--distiller", action="append", help="spec without an epsilon")
    parser.add_argument("--parametrization", default="identity")
    parser.add_argument("--network", help="by default the distiller's")
    parser.add_argument("--evaluation-network", help="by default the set's own")
    parser.add_argument("--steps", type=int, help="by default the distiller's")
    parser.add_argument("--networks", type=int, default=1, help="on each set")
    parser.add_argument("--seeds", type=int, default=1, help="distillations")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--test", action="store_true", help="score on the test set")
    parser.add_argument("--out", type=Path, help="JSON file to which rows are added")
    parser.add_argument("--table", type=Path, help="print the table of a JSON file")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(rows_of(options.table)))
        return
    if options.row:
        print(json.dumps(made_row(options)))
        return
    if not options.distiller or options.out is None:
        parser.error("--distiller and --out are required")
    if not options.epsilon and not all(map(is_public, options.distiller)):
        parser.error("--epsilon is required for private methods")
    try:
        for _ in added_rows(options.out, missing_rows(options)):
            pass
    finally:
        print(table(rows_of(options.out)))


def missing_rows(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield each missing row, and the command that makes it."""
    shared = given(
        options,
        *("dataset", "data_root", "ipc", "parametrization", "network"),
        *("evaluation_network", "steps", "networks", "test"),
    )
    scored_on = "test" if options.test else "validation"
    for method in options.distiller:
        for epsilon in [0.0] if is_public(method) else options.epsilon:
            for seed in range(options.seed, options.seed + options.seeds):
                wanted = (
                    *(options.dataset, options.ipc, method, epsilon, options.network),
                    *(options.parametrization, options.steps, scored_on),
                    *(options.evaluation_network, networks_of(method, options), seed),
                )
                if is_made(rows_of(options.out), KEY, wanted):
                    continue
                command = [__file__, "--row", *shared, "--distiller", method]
                command += ["--epsilon", str(epsilon), "--seed", str(seed)]
                yield f"{method}, epsilon {epsilon:g}, seed {seed}", command


if __name__ == "__main__":
    main()
