"""Settings of the HTML documentation: `python -m sphinx -W docs docs/_build`."""

import re

project = "jaxtta"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # outputs are those of `python -m docs.execute`
nb_merge_streams = True
exclude_patterns = ["_build"]
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # the fields of a NamedTuple are already listed as attributes
html_theme = "alabaster"
html_title = "jaxtta"
html_theme_options = {"page_width": "70em", "sidebar_width": "16em", "show_powered_by": False}
suppress_warnings = ["ref.python"]  # fields of different states share names


def as_restructured_text(docstring: str) -> str:
    """A docstring of this project, which is plain text, in the markup that Sphinx reads.

    Names in single backticks become code, the signs of formulas stay signs, an indented block after
    an empty line is an example, and a list need not stand between empty lines.
    """
    lines, in_list = [], False
    given = docstring.split("\n")
    for line, following in zip(given, [*given[1:], ""], strict=True):
        was_in_list, item = in_list, re.match(r"(-|\d+\.) ", line)
        continues = was_in_list or re.match(r"(-|\d+\.)? |$", following)
        in_list = bool(item and continues) or (was_in_list and line[:1] in ("", " "))
        lines += ["", line] if in_list != was_in_list else [line]
    blocks = re.split(r"\n{2,}(?=\S|    )", "\n".join(lines))
    return "\n\n".join("::\n\n" + b if b.startswith("    ") else _prose(b) for b in blocks)


def _prose(text: str) -> str:
    parts = re.split(r"(``.+?``|`[^`]+`)", text, flags=re.S)
    words = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    codes = [f"``{' '.join(part.strip('`').split())}``" for part in parts[1::2]]
    glued = [words[0]]
    for code, word in zip(codes, words[1:], strict=True):
        glued += [code, "\\ " if word[:1].isalnum() else "", word]
    return "".join(glued)


def setup(app):
    def process(app, what, name, obj, options, lines):
        lines[:] = as_restructured_text("\n".join(lines)).split("\n")

    def skip(app, what, name, obj, skip, options):
        # The docstring of a NamedTuple explains its fields; a function of another package that is
        # the default of a field is explained there.
        alias = (getattr(obj, "__doc__", "") or "").startswith("Alias for field number")
        owner = (getattr(obj, "__module__", None) or "").partition(".")[0]
        foreign = callable(obj) and owner in ("jax", "flax", "optax", "numpy")
        return True if alias or foreign else None

    app.connect("autodoc-process-docstring", process, priority=400)  # napoleon has 500
    app.connect("autodoc-skip-member", skip)
