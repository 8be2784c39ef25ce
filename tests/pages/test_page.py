"""A page is one file, in which all that it shows is text."""

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from jinja2 import UndefinedError

from dd_plugins.api import FileError, write_page

TEMPLATE = """
{% extends "base.html" %}
{% from "parts.html" import scrolled %}
{% block title %}of {{ name }}{% endblock %}
{% block finding %}{{ name }} is best.{% endblock %}
{% block content %}
{% call scrolled(name) %}<table><tr><td>{{ name }}</td></tr></table>{% endcall %}
{% endblock %}
"""
WILD = '<script>" \x1b[2Ja\nb\u202e\udcff'
TAME = r"&lt;script&gt;&#34; \x1b[2Ja\nb\u202e\udcff"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a package that holds a template."""
    folder = tmp_path / "of_a_page"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "mine.html").write_text(TEMPLATE.strip())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "of_a_page", ModuleType("of_a_page"))
    monkeypatch.delitem(sys.modules, "of_a_page")
    return "of_a_page"


def test_a_page_says_how_it_is_to_be_read(package: str, tmp_path: Path) -> None:
    path = write_page(tmp_path / "a.html", package, "mine.html", name="a set")
    page = path.read_text()
    assert page.startswith('<!doctype html>\n<html lang="en">')
    for text in (
        "<title>of a set</title>",
        "<h1>of a set</h1>",
        '<p class="finding">a set is best.</p>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "@media (prefers-color-scheme: dark)",
        "overflow-x: auto",
    ):
        assert text in page, text


def test_a_page_needs_nothing_from_outside(package: str, tmp_path: Path) -> None:
    page = write_page(tmp_path / "a.html", package, "mine.html", name="x").read_text()
    assert re.findall(r"https?:|@import|url\(|<link|<script|\bsrc=", page) == []


def test_names_are_text_wherever_they_stand(package: str, tmp_path: Path) -> None:
    page = write_page(tmp_path / "a.html", package, "mine.html", name=WILD).read_text()
    assert page.count(TAME) == 5
    assert "<script" not in page
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page)


def test_a_name_that_is_not_given_is_an_error(package: str, tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="name"):
        write_page(tmp_path / "a.html", package, "mine.html")
    assert not (tmp_path / "a.html").exists()


def test_a_page_that_cannot_be_written_is_refused(package: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write"):
        write_page(tmp_path, package, "mine.html", name="x")


def test_templates_are_part_of_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = settings["tool"]["setuptools"]["package-data"]["dd_plugins"]
    package = ROOT / "dd_plugins"
    there = set(package.rglob("*.html"))
    assert {path for glob in listed for path in package.glob(glob)} >= there != set()
