"""The built site: its links, and its pages in a browser."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT

DOCS = ROOT / "docs"
SITE = DOCS / "_build"
NO_PAGES = {"_build", "examples", "jupyter_execute"}
WIDTHS = (390, 1280)  # of a phone, and of a small laptop


@pytest.fixture(scope="module")
def site() -> Path:
    """Build what has changed since `make docs`, or everything."""
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "-q", "-b", "html"]
    done = subprocess.run([*command, DOCS, SITE], capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(SITE, ignore_errors=True)  # as `make docs` does
    assert done.returncode == 0, done.stderr
    return SITE


def pages_of(site: Path) -> list[Path]:
    """Return the pages that have a source now: a build keeps those of older ones."""
    sources = [
        source.relative_to(DOCS)
        for source in sorted([*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")])
        if source.relative_to(DOCS).parts[0] not in NO_PAGES
    ]
    names = [*sources, Path("genindex.md"), Path("search.md")]
    return [site / name.with_suffix(".html") for name in names]


class Links(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors.add(found.get("id") or "")
        target = found.get("href") or found.get("src")
        if target and not urlsplit(target).scheme:
            self.targets.add(target)


def test_internal_links_lead_to_a_page_and_an_anchor(site: Path) -> None:
    pages = {page: Links(page) for page in pages_of(site)}
    assert len(pages) > 30
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            path = unquote(parts.path)
            file = (page.parent / path).resolve() if path else page
            anchors = pages[file].anchors if file in pages else {parts.fragment}
            if not file.is_file() or unquote(parts.fragment) not in {"", *anchors}:
                broken.append((page.name, target))
    assert broken == []


class Visit(NamedTuple):
    """What a browser found on a page.

    Attributes:
        name: the page's file.
        sideways: for each width of the screen, by how many pixels the page, or the
            column of its text, scrolls sideways.
        missing: the addresses of pictures that were not loaded.
        errors: lines of the console.
    """

    name: str
    sideways: dict[int, int]
    missing: list[str]
    errors: list[str]


SIDEWAYS = """
    const boxes = [document.documentElement, ...document.querySelectorAll(".content")];
    return Math.max(...boxes.map(box => box.scrollWidth - box.clientWidth));
"""
MISSING = """
    const pictures = Array.from(document.images);
    return pictures.filter(each => !each.naturalWidth).map(each => each.src);
"""


def visit(driver: Any, page: Path) -> Visit:
    """Open a page once, and look at it at each width."""
    driver.get(page.as_uri())
    sideways = {}
    for width in WIDTHS:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1}
        command = "Emulation.setDeviceMetricsOverride"
        driver.execute_cdp_cmd(command, screen | {"mobile": False})
        sideways[width] = driver.execute_script(SIDEWAYS)
    said = [entry["message"] for entry in driver.get_log("browser")]
    # MathJax comes from another host, and there may be no network.
    errors = [line for line in said if not line.startswith("https://")]
    return Visit(page.name, sideways, driver.execute_script(MISSING), errors)


@pytest.fixture(scope="module")
def visits(site: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Visit]:
    """Visit every page in one Chromium, or skip where there is none."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("chromium and chromedriver are not both there")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(argument)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as chromium:
        return [visit(chromium, page) for page in pages_of(site)]


def test_no_page_scrolls_sideways(visits: list[Visit]) -> None:
    wide = {each.name: each.sideways for each in visits if any(each.sideways.values())}
    assert wide == {}


def test_every_picture_is_there(visits: list[Visit]) -> None:
    assert [(each.name, each.missing) for each in visits if each.missing] == []


def test_no_page_has_an_error_in_the_console(visits: list[Visit]) -> None:
    assert [(each.name, each.errors) for each in visits if each.errors] == []
