"""Measure the error of the time left, as long commands display it.

    python benchmarks/time_left.py --data-root DIR --out FILE.json
    python benchmarks/time_left.py --table FILE.json

Each command runs in a process of its own, which records every time left that the
display computes. From a tenth of the run on, and while a second or more is left, it is
compared with the true time left. Runs are short; other work on the machine adds to the
error.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "distill": "distill --dataset {data} --ipc 1 --out run --overwrite",
    "distill, dm": "distill --dataset {data} --distiller dm(real_batch_size=64) "
    "--ipc 1 --steps 200 --out dm --overwrite",
    "evaluate": "evaluate run --repeats 2 --baselines",
    "transfer": "transfer run --networks mlp,vgg11(width=16) --repeats 2",
    "train-networks": "train-networks --dataset {data} --network conv(width=16) "
    "--network mlp --steps 600",
    "train-experts": "train-experts --dataset {data} --network conv(width=16) "
    "--experts 3 --steps 150",
}
DATA = ("digits", "fashion-mnist")
NOTING = """
import json, os, sys, time
from dd_plugins.runtime import progress
told = []
update = progress.ProgressShown.update
def noting(self, what, done, total):
    update(self, what, done, total)
    now = time.monotonic()
    if self._begun is not None and done > self._begun:
        elapsed = now - self._started
        left = progress.seconds_left(done, total, self._begun, elapsed)
        told.append((now, elapsed, left, done >= total))
progress.ProgressShown.update = noting
from dd_plugins.cli.entry import main
try:
    main(sys.argv[1:])
finally:
    print("TOLD" + json.dumps(told))
"""


def errors(told: list[tuple[float, float, float, bool]]) -> list[float]:
    """Return the relative error of each time left, by the true end of the work."""
    end = max(now for now, _, _, _ in told)
    whole = max(elapsed for _, elapsed, _, _ in told)
    return [
        abs(left - (end - now)) / (end - now)
        for now, elapsed, left, _ in told
        if elapsed >= 0.1 * whole and end - now >= 1
    ]


def measured(command: str, data: str, folder: Path, root: Path) -> dict[str, object]:
    """Run a command, and return the errors of the times left that it showed."""
    words = [sys.executable, "-c", NOTING, *COMMANDS[command].format(data=data).split()]
    environment = os.environ | {"DD_DATA": str(root), "DD_CACHE": str(folder / "cache")}
    started = time.monotonic()
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - started
    told = json.loads(done.stdout.rpartition("TOLD")[2])
    found = errors(told)
    row: dict[str, object] = {
        "command": command,
        "data": data,
        "seconds": round(seconds, 1),
        "times": len(found),
    }
    if found:
        within = sum(error <= 0.25 for error in found) / len(found)
        row |= {
            "median_error": round(statistics.median(found), 3),
            "worst_error": round(max(found), 3),
            "within_a_quarter": round(within, 3),
        }
    return row


def table(rows: list[dict[str, object]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| command | data | seconds | median error | within 25 % | worst |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "median_error" not in row:
            continue
        shares = [
            f"{100 * float(str(row[name])):.0f} %"
            for name in ("median_error", "within_a_quarter", "worst_error")
        ]
        told = " | ".join(shares)
        lines.append(
            f"| {row['command']} | {row['data']} | {row['seconds']} | {told} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all commands, or print the table of a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root", type=Path, default=os.environ.get("DD_DATA"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    if asked.table:
        print(table(json.loads(asked.table.read_text())))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for data in DATA:
            for command in COMMANDS:
                rows.append(measured(command, data, Path(folder), asked.data_root))
                print(rows[-1], flush=True)
                if asked.out:
                    asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
