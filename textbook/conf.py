"""Sphinx configuration of the book: offline, executed, strict.

    python -m sphinx -W --keep-going -n -b html textbook textbook/_build/html
"""

import ast
import hashlib
import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

import numpy

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT)]
# The cells run in another process: pin what would change their output.
os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    PYTHONHASHSEED="0",
    PYDEVD_DISABLE_FILE_VALIDATION="1",
    PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
)

project = "Quantization from first principles"
author = "the refquant authors"
copyright = "2026, the refquant authors"
language = "en"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinxcontrib.bibtex",
    "sphinx_exercise",
    "sphinx_proof",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_togglebutton",
    "refquant_book",
]
# .rst first: autosummary writes its pages with the first suffix.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb"}
exclude_patterns = ["_build", "jupyter_execute", "README.md"]
templates_path = ["_templates"]
nitpicky = True
# What is documented elsewhere, on pages that an offline build cannot ask.
nitpick_ignore_regex = [("py:.*", r"(numpy|collections|typing|scipy|sklearn|pathlib)\..*")]
# A numbered reference of a docstring may stand for the whole function.
suppress_warnings = ["ref.citation"]

# -- mathematics: one file from a wheel, with its fonts inside; no network, no node ----------
_files = importlib.metadata.files("sphinx-mathjax-offline") or []
_vendor = HERE / "_build" / "vendor"
_vendor.mkdir(parents=True, exist_ok=True)
shutil.copyfile(
    next(f for f in _files if f.name == "tex-svg-full.js").locate(), _vendor / "tex-svg-full.js"
)
mathjax_path = "tex-svg-full.js"
mathjax3_config = {"svg": {"fontCache": "global"}}
math_eqref_format = "({number})"
numfig = True
myst_enable_extensions = [
    "amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath",
]
myst_heading_anchors = 3

# -- execution: an error fails the build; unchanged cells come from the cache ----------------
nb_execution_mode = os.environ.get("BOOK_EXEC", "cache")      # "force" runs everything
# The cache is keyed by the text of the cells alone. A change of the library must empty it too.
_key = hashlib.sha256(numpy.__version__.encode())
for _file in sorted(p for p in (ROOT / "refquant").rglob("*") if p.is_file()):
    if "__pycache__" not in _file.parts:
        _key.update(_file.read_bytes())
nb_execution_cache_path = str(HERE / "_build" / f"cache-{_key.hexdigest()[:12]}")
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_kernel_rgx_aliases = {".*": "python3"}

# -- library pages: every public module, found by walking the package ------------------------
autosummary_generate = True
# Public names in the order of the source; `__all__` is in that of the alphabet.
_public = {}
for _file in sorted((ROOT / "refquant").rglob("*.py")):
    _home = _file.with_suffix("") if _file.name != "__init__.py" else _file.parent
    _public[".".join(_home.relative_to(ROOT).parts)] = next(
        (ast.literal_eval(node.value) for node in ast.parse(_file.read_text("utf-8")).body
         if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"), [])
autosummary_context = {"public": _public}
for _page in (HERE / "reference" / "generated").glob("*.rst"):     # of modules that are gone
    if _page.stem not in _public:
        _page.unlink()
autodoc_member_order = "bysource"
autodoc_typehints = "none"
default_role = "soft"                       # `name` in a docstring links where it can
numpydoc_xref_param_type = False            # needs inventories from the network
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# "all" turns the list around: everything but these. PR07, PR08, RT03: a name, a type and a shape
# often say enough. GL02: a "#:" comment has no closing quotes. SS05: a first line says what comes
# out, and "Plus" is no verb. PR01, RT01: a record has attributes, not parameters;
# tests/structure/test_map.py knows the difference. PR03: "x_train, x_test : ..." groups what
# belongs together.
numpydoc_validation_checks = {
    "all", "GL01", "GL08", "EX01", "SA01", "ES01", "SA04", "YD01",
    "GL02", "PR01", "PR03", "PR07", "PR08", "RT01", "RT03", "SS05",
}

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static", "_build/vendor"]
html_css_files = ["book.css"]
html_context = {"default_mode": "auto"}
html_last_updated_fmt = None                # the same input gives the same page
html_show_search_summary = False            # a summary is fetched, which file:// pages may not
html_theme_options = {
    "home_page_in_toc": True,
    "logo": {"text": project},
    "navbar_persistent": [],                # a second search field otherwise
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "use_issues_button": False,
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
