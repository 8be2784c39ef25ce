"""Count how many raised messages say what was expected and what came.

Run it as ``python tests/error_texts.py``. The rule, by syntax alone:

- A site is a ``raise`` of a call, ``raise SomeError(...)``, in the files of a root.
  Bare ``raise`` and ``raise error`` pass on what another site has said.
- The message is every string in the arguments of the call. A name stands for what the
  same function assigns to it.
- It states what was expected if it has a word of :data:`EXPECTED`.
- It states what came if it interpolates a value.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOTS = ("dd_plugins", "integrations/dd_avalanche", "integrations/dd_privacy")
EXPECTED = re.compile(
    r"\b(expect\w*|must|needs?|takes?|at most|at least|one of|known|between|"
    r"should|has to|have to|only|either)\b",
    re.I,
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sites(tree: ast.Module) -> Iterator[tuple[ast.Call, dict[str, list[ast.expr]]]]:
    """Yield each call that is raised, with what its function assigns to names."""

    def visit(
        node: ast.AST, names: dict[str, list[ast.expr]]
    ) -> Iterator[tuple[ast.Call, dict[str, list[ast.expr]]]]:
        if isinstance(node, Function):
            names = {}
            for inner in ast.walk(node):
                if isinstance(inner, ast.Assign | ast.AugAssign):
                    targets = (
                        inner.targets
                        if isinstance(inner, ast.Assign)
                        else [inner.target]
                    )
                    for target in targets:
                        if isinstance(target, ast.Name):
                            names.setdefault(target.id, []).append(inner.value)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield node.exc, names
        for child in ast.iter_child_nodes(node):
            yield from visit(child, names)

    yield from visit(tree, {})


def message(call: ast.Call, names: dict[str, list[ast.expr]]) -> tuple[str, bool]:
    """Return the text of a message, and whether it interpolates a value."""
    arguments = [*call.args, *(word.value for word in call.keywords)]
    resolved = [
        value
        for argument in arguments
        for value in (
            names.get(argument.id, [argument])
            if isinstance(argument, ast.Name)
            else [argument]
        )
    ]
    inside = [part for value in resolved for part in ast.walk(value)]
    texts = [
        part.value
        for part in inside
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    return " ".join(texts), any(isinstance(part, ast.FormattedValue) for part in inside)


def shares(root: Path) -> tuple[int, int, int, int]:
    """Return the numbers of sites: all, with what was expected, what came, both."""
    found = [
        (bool(EXPECTED.search(text)), came)
        for path in sorted(root.rglob("*.py"))
        for text, came in (
            message(call, names) for call, names in sites(ast.parse(path.read_text()))
        )
    ]
    return (
        len(found),
        sum(expected for expected, _ in found),
        sum(came for _, came in found),
        sum(expected and came for expected, came in found),
    )


def main() -> None:
    """Print a line for each root."""
    house = Path(__file__).parents[1]
    for root in ROOTS:
        count, *parts = shares(house / root)
        expected, came, both = (round(100 * part / count) for part in parts)
        sys.stdout.write(
            f"{root}: {count} sites, {expected}% say what was expected, "
            f"{came}% what came, {both}% both\n"
        )


if __name__ == "__main__":
    main()
