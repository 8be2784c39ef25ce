"""Sphinx: `make docs` builds the pages, with warnings as errors."""

project = "dd-plugins"
author = "The dd-plugins authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["examples", "_build"]
autodoc_typehints = "description"
myst_heading_anchors = 3
napoleon_use_ivar = True  # the fields of a named tuple stand once
