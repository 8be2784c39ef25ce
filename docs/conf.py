"""Sphinx: `make docs` builds the pages, with warnings as errors."""

from pathlib import Path

from dd_plugins.plugins.manager import Plugins
from dd_plugins.plugins.option_table import options_page

# The page of options is made of the code, so that it cannot differ from it.
Path(__file__).with_name("options.md").write_text(options_page(Plugins(load=[])))

project = "dd-plugins"
author = "The dd-plugins authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["examples", "_build", ".jupyter_cache"]
autodoc_typehints = "description"
myst_heading_anchors = 3
napoleon_use_ivar = True  # the fields of a named tuple stand once

# A tutorial runs when its code has changed; `make clean` forgets what it gave. A cell
# that fails stops the build.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds for a cell
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars, and warnings of other libraries
