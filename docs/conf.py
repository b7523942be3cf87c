"""How Sphinx builds the documentation: `make docs` writes it to docs/_build."""

project = "reed"
author = "The REED authors"
extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
napoleon_use_ivar = True  # an attribute is described once
exclude_patterns = ["_build", "examples"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# A page per module, written from the docstrings (Google style) each time the docs are built.
apidoc_modules = [
    {
        "path": "../reed",
        "destination": "api",
        "exclude_patterns": ["../reed/experiments"],
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members"},
    }
]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Annotations name a class without its module, and two modules may have one of that name.
suppress_warnings = ["ref.python"]
# Libraries that a machine which only builds the docs may lack.
autodoc_mock_imports = ["ray"]

html_theme = "furo"
html_title = "reed"
html_static_path = ["_static"]
html_css_files = ["reed.css"]
html_copy_source = False
