"""The house: how long a chain of imports, a file and a class may be."""

import ast
import statistics
from functools import cache
from pathlib import Path

import grimp
from conftest import ROOT

LONGEST_CHAIN = 13
LONGEST_FILE = 500
MOST_METHODS = 20
# What a distiller may define is one list for its author, and a wrapper forwards all of
# it: docs/architecture.md says why these two are longer.
INTERFACES = {"AbstractDistiller", "AbstractWrapper"}

FILES = [
    path
    for root in (ROOT / "dd_plugins", ROOT / "integrations")
    for path in root.rglob("*.py")
]


def test_no_chain_of_imports_is_long_and_none_is_a_circle() -> None:
    graph = grimp.build_graph("dd_plugins", cache_dir=None)

    @cache
    def longest(module: str) -> tuple[str, ...]:
        below = map(longest, graph.find_modules_directly_imported_by(module))
        return module, *max(below, key=len, default=())

    # A circle would end in a RecursionError.
    chain = max((longest(module) for module in graph.modules), key=len)
    assert len(chain) <= LONGEST_CHAIN, " > ".join(chain)


def test_files_are_short() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in FILES}
    assert {path: count for path, count in lines.items() if count > LONGEST_FILE} == {}
    integrations = [
        count for path, count in lines.items() if "integrations" in path.parts
    ]
    assert statistics.median(integrations) <= 200


def _methods(path: Path) -> list[tuple[str, int]]:
    return [
        (node.name, sum(isinstance(each, ast.FunctionDef) for each in node.body))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]


def test_classes_have_few_methods() -> None:
    many = {
        name for path in FILES for name, count in _methods(path) if count > MOST_METHODS
    }
    assert many == INTERFACES
