"""Sphinx: `make docs` builds the pages, with warnings as errors and without network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from docutils import nodes
from files_page import files_page
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

from dd_plugins.plugins.manager import Plugins
from dd_plugins.plugins.option_table import options_page

# The page of options is made of the code, so that it cannot differ from it.
OPTIONS = Path(__file__).with_name("options.md")
page = options_page(Plugins(load=["avalanche", "privacy"]))
if not OPTIONS.exists() or OPTIONS.read_text() != page:
    OPTIONS.write_text(page)

# So is the page of files.
FILES = Path(__file__).with_name("files.md")
page = files_page(FILES.parents[1])
if not FILES.exists() or FILES.read_text() != page:
    FILES.write_text(page)

project = "dd-plugins"
author = "The dd-plugins authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["examples", "_build", "jupyter_execute"]
html_theme = "furo"
html_title = "dd-plugins"
html_domain_indices = False  # modules: names stand by subject
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "member-order": "bysource"}
copybutton_exclude = ".linenos, .gp, .go"  # of a session in Python, the input alone
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
smartquotes = False  # they would turn the -- of an option into a dash
napoleon_use_ivar = True  # the fields of a named tuple stand once

# Tutorials hold their outputs: `make tutorials` runs them.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars, and warnings of other libraries

PUBLIC = ("dd_plugins", "dd_plugins.api", "dd_avalanche", "dd_privacy")


def public_reference(
    app: Sphinx,
    env: BuildEnvironment,
    node: addnodes.pending_xref,
    text: nodes.TextElement,
) -> nodes.reference | None:
    """Lead from the path of a name's module to where its public name is described."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    python = env.domains.python_domain
    for module in PUBLIC:
        target = f"{module}.{name}"
        if target in python.objects:
            return python.resolve_xref(
                env, node["refdoc"], app.builder, "obj", target, node, text
            )
    return None


def constant_text(
    app: Sphinx, what: str, name: str, value: object, options: object, text: list[str]
) -> None:
    """Describe a public constant, or an alias of a type, by the text below it."""
    del app, options
    label = name.rpartition(".")[2]
    if what != "data":
        return
    for module in [each for each in sys.modules if each.startswith("dd_plugins.")]:
        if vars(sys.modules[module]).get(label) is value:
            found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", label))
            if found:
                text[:] = found


def setup(app: Sphinx) -> None:
    """Connect what stands above."""
    app.connect("autodoc-process-docstring", constant_text)
    app.connect("missing-reference", public_reference)
