"""Print what audits found, as tables for the docs: one for each group of members.

    dd-plugins audit frepo --dataset mnist ... --json FILE.json
    python benchmarks/audits.py FILE.json [FILE.json ...]
    python benchmarks/audits.py --rates FILE.json [FILE.json ...]

A figure is an area under the ROC curve with its 95 % interval. Accuracy is in per cent.
With ``--rates`` each attack has a row, with its true positive rates at 1 and 0.1 % of
false positives, in per cent.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rows import percent

GROUPS = {
    "other_members": "members that the released images did not start from",
    "initial_members": "members that the released images started from",
    "canaries": "members with a wrong label",
}


def area(found: dict[str, Any]) -> str:
    """Return an area with its interval; empty if it is withheld."""
    figure = found["auc"]
    if figure["estimate"] is None:
        return ""
    low, high = figure["ci95"]
    return f"{figure['estimate']:.3f} ({low:.3f} to {high:.3f})"


def rate(found: dict[str, Any], fpr: str, digits: int) -> str:
    """Return a true positive rate with its interval, in per cent."""
    figure = found["tpr_at_fpr"][fpr]
    if figure["estimate"] is None:
        return ""
    values = (100 * each for each in (figure["estimate"], *figure["ci95"]))
    own, low, high = (f"{each:.{digits}f}" for each in values)
    return f"{own} ({low} to {high})"


def table_of_rates(audits: list[dict[str, Any]]) -> str:
    """Return a Markdown table with a row for each attack on each group of members."""
    columns = ["data", "trained on", "accuracy", "members", "attack", "area"]
    columns += ["TPR at 1 % FPR", "TPR at 0.1 % FPR"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for audit in audits:
        accuracies = {
            each["name"]: percent(each["accuracies"]) for each in audit["mechanisms"]
        }
        for found in audit["results"]:
            cells = [
                audit["about"]["dataset"],
                found["mechanism"],
                accuracies[found["mechanism"]],
                f"{found['group'].partition('_')[0]} ({found['members']:,})",
                f"`{found['attack']}`",
                area(found),
                rate(found, "0.01", 1),
                rate(found, "0.001", 2),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of(audit: dict[str, Any], group: str, attacks: list[str]) -> list[str]:
    """Return the lines of an audit in the table of a group of members."""
    lines = []
    for mechanism in audit["mechanisms"]:
        own = {
            each["attack"]: each
            for each in audit["results"]
            if each["mechanism"] == mechanism["name"] and each["group"] == group
        }
        if not own:
            continue
        count = max(each["members"] for each in own.values())
        cells = [
            audit["about"]["dataset"],
            str(mechanism["about"].get("images_per_class", "")),
            mechanism["name"],
            percent(mechanism["accuracies"]),
            f"{count:,}",
            *(area(own[attack]) if attack in own else "" for attack in attacks),
            str(len(mechanism["accuracies"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table(audits: list[dict[str, Any]], group: str) -> str:
    """Return a Markdown table of a group of members; empty if no audit has it."""
    attacks = list(
        dict.fromkeys(
            each["attack"]
            for audit in audits
            for each in audit["results"]
            if each["group"] == group
        )
    )
    # Audits of one data set share the network trained on all members.
    rows = dict.fromkeys(
        row for audit in audits for row in rows_of(audit, group, attacks)
    )
    if not rows:
        return ""
    names = [f"`{attack}`" for attack in attacks]
    columns = ["data", "images per class", "trained on", "accuracy", "members", *names]
    head = f"| {' | '.join([*columns, 'runs'])} |"
    return "\n".join([head, "|---" * (len(columns) + 1) + "|", *rows])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--rates", action="store_true", help="a row for each attack")
    options = parser.parse_args()
    audits = [json.loads(each.read_text()) for each in options.files]
    if options.rates:
        print(table_of_rates(audits))
        return
    for group, words in GROUPS.items():
        if found := table(audits, group):
            print(f"{words}:\n\n{found}\n")


if __name__ == "__main__":
    main()
