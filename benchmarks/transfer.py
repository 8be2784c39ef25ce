r"""Measure the gain of a wrapper on architectures that took no part in distilling.

    python benchmarks/transfer.py --dataset fashion-mnist --ipc 10 --data-root DIR \
        --distillers "frepo" "metadd(frepo)" --seeds 5 --out FILE.json

The first distiller is the base for comparing the others. Each distils once for every
seed; on each set one fresh network of each architecture is trained for every repeat,
from the same initial weights for all distillers of a seed. Gains are paired by seed.
Make choices on ``--split validation``, the default; ``--split test`` reads the test
images, once for each set, when everything is chosen.

Rows are added to the file as they are measured, and not measured again: a run that was
stopped continues when it is started again. ``--table`` prints the rows of the file.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rows import add_row, made_rows

import dd_plugins
from dd_plugins.data.images import Images
from dd_plugins.data.real import RealData
from dd_plugins.errors import DDError
from dd_plugins.evaluation.architectures_of_set import architectures_of
from dd_plugins.evaluation.relabelling import relabel
from dd_plugins.functional.statistics import mean_interval
from dd_plugins.spec import split_specs
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.training.protocols import as_protocol, recipe_for

NARROW = (
    "conv(width=32),alexnet(width=32),mlp(width=64),resnet18(width=16),"
    "vit(width=64, depth=3)"
)

Row = dict[str, Any]


def measure(data: RealData, spec: str, seed: int, options: argparse.Namespace) -> Row:
    """Distil once, or load the set, and train networks of all architectures on it."""
    path = None
    if options.sets is not None:
        key = (
            f"{data.name} {data.image_shape} {options.ipc} {options.steps} "
            f"{options.network} {spec} {seed}"
        )
        path = options.sets / f"{sha256(key.encode()).hexdigest()[:16]}.safetensors"
    started = time.perf_counter()
    was_there = path is not None and path.exists()
    if path is not None and was_there:
        distilled = DistilledSet.load(path)
    else:
        distilled = dd_plugins.distill(
            data,
            spec,
            images_per_class=options.ipc,
            steps=options.steps,
            network=options.network,
            seed=seed,
        )
        if path is not None:
            distilled.save(path)
    seconds: float | None = time.perf_counter() - started
    if path is not None:  # a loaded set took longer to make
        told = path.with_suffix(".seconds")
        if not was_there:
            told.write_text(f"{seconds}")
        seconds = float(told.read_text()) if told.exists() else None
    if options.only_distil:
        return {
            "distiller": spec,
            "seed": seed,
            "distil_seconds": None if seconds is None else round(seconds, 1),
        }
    if options.relabel:
        distilled = relabel(
            distilled,
            split_specs(options.relabel),
            views=f"views(count={options.training_steps or 300}, mix='cutmix')",
            data=data,
        )
    return {
        "distiller": spec,
        "settled": distilled.header.distiller,
        "seed": seed,
        "distil_seconds": None if seconds is None else round(seconds, 1),
    } | tested(distilled, data, seed, options)


def tested(
    distilled: DistilledSet, data: RealData, seed: int, options: argparse.Namespace
) -> Row:
    """Train networks of all architectures on a set, and score them.

    For a set with a teacher's labels, random real images with them are scored as well.
    """
    started = time.perf_counter()
    scored = data
    if options.split == "validation":
        scored = replace(data, read_test=lambda: data.validation)
    took_part = architectures_of(
        distilled, dd_plugins.get_distiller, dd_plugins.get_network
    )
    own = dd_plugins.get_network(distilled.header.evaluation_network)
    named = [dd_plugins.get_network(each) for each in split_specs(options.networks)]
    row: Row = {"roles": {}, "accuracies": {}}
    for network in dict.fromkeys([own, *(n.for_evaluation() for n in named)]):
        recipe = recipe_for(distilled, as_protocol(options.protocol), network)
        if options.training_steps is not None:
            steps = options.training_steps
            recipe = replace(recipe, steps=steps, warm_up=steps // 10)
        found = dd_plugins.evaluate(
            distilled,
            repr(network),
            repeats=options.repeats,
            protocol=recipe,
            data=scored,
            seed=seed,
        )
        (result,) = found.networks
        row["accuracies"][result.spec] = list(result.accuracies)
        row["roles"][result.spec] = took_part.role(network)
        for each in found.taught_random:
            real = row.setdefault("taught_random", {})
            real[each.spec] = list(each.accuracies)
    return row | {"transfer_seconds": round(time.perf_counter() - started, 1)}


def resized(data: RealData, side: int) -> RealData:
    """Return the data with images of another size: small ones make a search cheap."""

    def resize(images: Images) -> Images:
        pixels = images.images[:]
        if pixels.dtype == torch.uint8:
            pixels = pixels / 255
        return Images(F.interpolate(pixels, (side, side), mode="area"), images.labels)

    return replace(
        data,
        train=resize(data.train),
        validation=resize(data.validation),
        read_test=lambda: resize(data.read_test()),
    )


def rows_of(path: Path, setting: Row) -> list[Row]:
    """Return the rows of a setting; None stands for a field that a row lacks.

    Until 2026-11-29 the steps and the learning rate replaced the protocol of a row.
    """
    found = []
    for row in made_rows(path):
        if "learning_rate" in row:
            steps, rate = row["training_steps"], row["learning_rate"]
            recipe = as_protocol(f"recipe(steps={steps}, learning_rate={rate})")
            row["protocol"] = str(recipe)
        if all(row.get(name) == value for name, value in setting.items()):
            found.append(row)
    return found


def mean_of(row: Row, networks: Iterable[str]) -> float:
    """Return the mean accuracy over some architectures."""
    means: list[float] = [
        statistics.mean(row["accuracies"][network]) for network in networks
    ]
    return statistics.mean(means)


def summary(rows: list[Row], base: str) -> str:
    """Return a Markdown table: the base, and the gain of each other over it.

    The held-out architectures differ by distiller: a gain is the mean over those held
    out in its own rows and in the base's. Brackets mark architectures that took part.
    """
    of_base = {row["seed"]: row for row in rows if row["distiller"] == base}
    if not of_base:
        raise SystemExit(f"no row of {base!r} in this setting, nothing to compare with")
    networks = list(next(iter(of_base.values()))["accuracies"])
    specs = list(dict.fromkeys(row["distiller"] for row in rows))
    lines = [
        "| distiller | seeds | seconds | held out | "
        + " | ".join(network.split("(")[0] for network in networks)
        + " |",
        "|---" * (4 + len(networks)) + "|",
    ]
    for spec in specs:
        own = [
            row
            for row in rows
            if row["distiller"] == spec and (spec == base or row["seed"] in of_base)
        ]
        if not own:
            continue
        both = [*own, *of_base.values()]
        held_out = [
            network
            for network in networks
            if all(row["roles"][network] == "held out" for row in both)
        ]
        seen = {n for n in networks if any(row["roles"][n] == "seen" for row in own)}
        known = [row["distil_seconds"] for row in own if row["distil_seconds"]]
        seconds = f"{statistics.median(known):.0f}" if known else ""
        cells = [
            f"[{cell}]" if set(chosen) <= seen else cell
            for chosen in (held_out, *([network] for network in networks))
            for cell in [_cell(own, of_base, chosen, absolute=spec == base)]
        ]
        lines.append(
            f"| `{spec}` | {len(own)} | {seconds} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _cell(
    own: list[Row], of_base: dict[int, Row], networks: list[str], *, absolute: bool
) -> str:
    if not networks:
        return ""
    values = [100 * mean_of(row, networks) for row in own]
    if absolute:
        return f"{statistics.mean(values):.1f}"
    gains = [
        value - 100 * mean_of(of_base[row["seed"]], networks)
        for value, row in zip(values, own, strict=True)
    ]
    interval = mean_interval(gains)
    shown = f"{statistics.mean(gains):+.1f}"
    if interval is None:
        return shown
    return f"{shown} ({interval[0]:+.1f} to {interval[1]:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--image-size", type=int, help="resize all images first")
    parser.add_argument("--distillers", nargs="+", default=["frepo", "metadd(frepo)"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--network", help="to distil with; by default by data set")
    parser.add_argument("--networks", default=NARROW, help="to test with")
    parser.add_argument(
        "--protocol", default="family", help="family, auto, frepo, classic or a recipe"
    )
    parser.add_argument(
        "--training-steps", type=int, help="in place of its own, a tenth to warm up"
    )
    parser.add_argument("--sets", type=Path, help="keep sets here, for this code alone")
    parser.add_argument("--relabel", help="teachers that label each set anew")
    parser.add_argument(
        "--only-distil", action="store_true", help="make the sets, test nothing"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    setting = {
        "dataset": options.dataset,
        "images_per_class": options.ipc,
        "image_size": options.image_size,
        "steps": options.steps,
        "network": options.network,
        "networks": options.networks,
        "repeats": options.repeats,
        "protocol": str(as_protocol(options.protocol)),
        "relabel": options.relabel,
        "training_steps": options.training_steps,
        "split": options.split,
    }
    data = None
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for spec in options.distillers:
            key = setting | {"distiller": spec, "seed": seed}
            if options.table or rows_of(options.out, key):
                continue
            if data is None:
                data = dd_plugins.get_dataset(
                    options.dataset, data_root=options.data_root
                )
                if options.image_size is not None:
                    data = resized(data, options.image_size)
            row = setting | measure(data, spec, seed, options)
            row |= {
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "date": date.today().isoformat(),
            }
            print(json.dumps(row), flush=True)
            if not options.only_distil:
                add_row(options.out, row)
    if options.only_distil:
        return
    print(summary(rows_of(options.out, setting), options.distillers[0]))


if __name__ == "__main__":
    try:
        main()
    except DDError as error:
        sys.exit(f"Error: {error}")
