"""The house: how long a chain of imports, a file and a class may be; its English."""

import ast
import re
import statistics
from functools import cache
from pathlib import Path

import grimp
from conftest import ROOT

LONGEST_CHAIN = 13
LONGEST_FILE = 500
MOST_METHODS = 20
MOST_RELATIVE_PRONOUNS = 2.0  # of a hundred words
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


def _docstrings(path: Path) -> list[str]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = ast.walk(ast.parse(path.read_text()))
    return [
        ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)
    ]


def _relative_pronouns(text: str) -> float:
    """Return the relative pronouns in a hundred words."""
    pronouns = re.findall(r"\b(?:that|which|who|what)\b", text, re.IGNORECASE)
    return 100 * len(pronouns) / len(text.split())


def test_docstrings_have_few_relative_clauses() -> None:
    text = "\n".join(each for path in FILES for each in _docstrings(path))
    assert _relative_pronouns(text) <= MOST_RELATIVE_PRONOUNS


def test_readme_has_few_relative_clauses() -> None:
    text = (ROOT / "README.md").read_text()
    assert _relative_pronouns(text) <= MOST_RELATIVE_PRONOUNS
