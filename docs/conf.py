"""Settings of the HTML documentation: `python -m sphinx docs docs/_build`."""

project = "jaxtta"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # the fields of a NamedTuple are already listed as attributes
html_theme = "alabaster"
suppress_warnings = ["ref.python"]  # fields of different states share names
