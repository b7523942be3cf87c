"""How Sphinx builds the documentation: `make docs` writes it to docs/_build."""

project = "reed"
author = "The REED authors"
extensions = ["myst_parser"]
exclude_patterns = ["_build", "examples"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "reed"
html_static_path = ["_static"]
html_css_files = ["reed.css"]
html_copy_source = False
