"""Print the rows of a search (benchmarks/defaults.py) as a table for the docs.

python benchmarks/table.py docs/benchmarks/defaults.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

HEAD = (
    "| data | images per class | network | distiller | steps "
    "| seeds x networks | seconds | validation accuracy |"
)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table, with a line for each row."""
    lines = [HEAD, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        accuracies = row["validation_accuracies"]
        network = row["network"].replace(", normalization='batch'", "")
        low, high = min(accuracies), max(accuracies)
        lines.append(
            f"| {row['dataset']} | {row['images_per_class']} | `{network}` "
            f"| `{row['distiller']}` | {row['steps']} "
            f"| {row['seeds']} x {len(accuracies) // row['seeds']} "
            f"| {row['distil_seconds']:.0f} "
            f"| {row['validation_accuracy_mean']:.3f} ({low:.3f} to {high:.3f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, metavar="FILE.json")
    print(table(json.loads(parser.parse_args().rows.read_text())))
