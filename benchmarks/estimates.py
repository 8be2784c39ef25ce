"""Compare the estimates of ``dd-plugins estimate`` with the cost of the runs.

    python benchmarks/estimates.py --data-root DIR --out FILE.json
    python benchmarks/estimates.py --table FILE.json

Each setting is estimated and then run, each in a process of its own, so that the peak
memory is the run's alone. Seconds are those of the whole function, without Python's
imports.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rows import added_rows, is_made, made_rows, peak_mebibytes

import dd_plugins

KEY = ("data", "distiller", "options")
SETTINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("digits", "frepo", {"images_per_class": 10, "steps": 500}),
    ("mnist", "dm", {"images_per_class": 10, "steps": 60, "network": "conv(width=32)"}),
    ("fashion-mnist", "frepo", {"images_per_class": 10, "steps": 150}),
    ("cifar10", "frepo", {"images_per_class": 1, "steps": 150}),
    ("cifar10", "frepo", {"images_per_class": 50, "steps": 60}),
    (
        "cifar10",
        "dsa",
        {"images_per_class": 1, "steps": 30, "network": "dc_convnet(width=32)"},
    ),
    (
        "cifar10",
        "frepo",
        {"images_per_class": 1, "steps": 100, "parametrization": "packed(factor=2)"},
    ),
    (
        "digits",
        "metadd(frepo)",
        {"images_per_class": 1, "steps": 200, "network": "conv(width=16)"},
    ),
]


def single(options: argparse.Namespace) -> dict[str, Any]:
    """Estimate or run one setting in this process."""
    data, distiller, given = SETTINGS[options.single]
    given = {**given, "data_root": options.data_root, "device": "cpu"}
    started = time.perf_counter()
    if options.estimate:
        found = dd_plugins.estimate(data, distiller, **given)
        return {
            "seconds": found.seconds,
            "mib": found.memory / 2**20,
            "estimate_took": time.perf_counter() - started,
        }
    with tempfile.TemporaryDirectory() as folder:
        dd_plugins.distill(data, distiller, out=Path(folder) / "run", **given)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "mib": peak_mebibytes()}


def row_of(options: argparse.Namespace) -> dict[str, Any]:
    """Estimate a setting and run it, each in a process of its own."""
    data, distiller, given = SETTINGS[options.row]
    words = [sys.executable, __file__, "--single", str(options.row)]
    words += ["--data-root", options.data_root] if options.data_root else []
    found = []
    for more in (["--estimate"], []):
        with tempfile.TemporaryDirectory() as cache:  # networks are trained in both
            done = subprocess.run(
                [*words, *more],
                check=True,
                capture_output=True,
                env=os.environ | {"DD_CACHE": cache},
            )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "data": data,
        "distiller": distiller,
        "options": given,
        "estimate": found[0],
        "run": found[1],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def missing_rows(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield each missing row, and the command that makes it."""
    for number, setting in enumerate(SETTINGS):
        if is_made(made_rows(options.out), KEY, setting):
            continue
        words = [__file__, "--row", str(number)]
        words += ["--data-root", options.data_root] if options.data_root else []
        yield setting[1], words


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table, with a line for each row."""
    lines = [
        "| data | distiller | options | seconds estimated | taken | error "
        "| MiB estimated | taken | error | the estimate took |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        told, took = row["estimate"], row["run"]
        given = ", ".join(f"{name}={value}" for name, value in row["options"].items())
        lines.append(
            f"| {row['data']} | `{row['distiller']}` | {given} "
            f"| {told['seconds']:.0f} | {took['seconds']:.0f} "
            f"| {100 * (told['seconds'] / took['seconds'] - 1):+.0f} % "
            f"| {told['mib']:,.0f} | {took['mib']:,.0f} "
            f"| {100 * (told['mib'] / took['mib'] - 1):+.0f} % "
            f"| {told['estimate_took']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, help="JSON file to which rows are added")
    parser.add_argument("--table", type=Path, help="print the table of a JSON file")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--single", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--estimate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(made_rows(options.table)))
    elif options.row is not None:
        print(json.dumps(row_of(options)))
    elif options.single is not None:
        print(json.dumps(single(options)))
    elif not options.out:
        parser.error("--out is required")
    else:
        for row in added_rows(options.out, missing_rows(options)):
            print(table([row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
