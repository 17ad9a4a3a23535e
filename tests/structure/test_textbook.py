"""Run every code cell of every chapter in-process: no Jupyter, no Sphinx, no matplotlib needed."""

import ast
import re
import traceback
from pathlib import Path

import numpy as np
import pytest
from structure._tree import CHAPTERS, ROOT

CELL = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{code-cell\}[^\n]*\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.M | re.S)
TAGS = re.compile(r"^:tags:\s*\[(.*?)\]", re.M)
FILES = sorted(CHAPTERS.glob("*.md"))
WIDTH = 72                          # wider lines scroll on the page and are cut in print


def cells(text: str) -> list[tuple[int, set[str], str]]:
    """First line, tags and source of each code cell of a MyST notebook."""
    found = []
    for match in CELL.finditer(text):
        first = text.count("\n", 0, match.start("body")) + 1
        options, body = [], match["body"].split("\n")
        if body[0].strip() == "---":                            # options as a YAML block
            raise AssertionError(f"line {first}: write cell options as `:tags: [...]`")
        while body and re.match(r":\w[\w-]*:|:  ", body[0]):
            options.append(body.pop(0))
            first += 1
        tags = TAGS.search("\n".join(options))
        names = {tag.strip() for tag in tags[1].split(",")} if tags else set()
        found.append((first, names, "\n".join(body)))
    return found


def have_matplotlib() -> bool:
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    return True


def run(name: str, text: str) -> int:
    """Run the cells in one namespace; how many claims they asserted."""
    with np.printoptions():                 # a chapter sets its own; doctests come later
        return _run(name, text)


def _run(name: str, text: str) -> int:
    plots, claims, namespace = have_matplotlib(), 0, {"__name__": "__chapter__"}
    for line, tags, source in cells(text):
        if "figure" in tags and not plots:
            continue
        # The blank lines give tracebacks the line numbers of the chapter.
        code = compile("\n" * (line - 1) + source, name, "exec")
        try:
            exec(code, namespace)
        except Exception as err:
            if "raises-exception" not in tags:
                lines = [f.lineno for f in traceback.extract_tb(err.__traceback__)
                         if f.filename == name]
                raise AssertionError(
                    f"{name}:{lines[-1] if lines else line}: {type(err).__name__}: {err}") from err
        else:
            assert "raises-exception" not in tags, f"{name}:{line}: this cell should raise"
        claims += len(re.findall(r"^\s*assert\b", source, re.M)) if "claim" in tags else 0
    return claims


@pytest.mark.parametrize("chapter", FILES, ids=lambda p: p.stem)
def test_chapter_runs_and_proves_what_it_says(chapter: Path, monkeypatch, tmp_path):
    # Nothing a chapter does to the style of figures or the folder outlives it.
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    try:
        claims = run(str(chapter.relative_to(ROOT)), chapter.read_text("utf-8"))
    finally:
        if have_matplotlib():
            import matplotlib.pyplot as plt

            plt.close("all")
            plt.rcdefaults()
    assert claims >= 2, f"{chapter.name} asserts {claims} claims in cells tagged claim: at least 2"


@pytest.mark.parametrize("chapter", FILES, ids=lambda p: p.stem)
def test_every_cell_is_found_and_narrow(chapter: Path):
    text = chapter.read_text("utf-8")
    found = cells(text)
    assert len(found) == len(re.findall(r"^[`:]{3,}\{code-cell\}", text, re.M))
    wide = [f"{chapter.name}:{first + i}" for first, _, source in found
            for i, row in enumerate(source.split("\n")) if len(row) > WIDTH]
    assert not wide, f"lines of more than {WIDTH} characters in cells: {wide}"


@pytest.mark.parametrize("chapter", FILES, ids=lambda p: p.stem)
def test_a_figure_cell_shows_its_figure_alone(chapter: Path):
    """A value at the end of the cell would be a second figure of the same name in the book."""
    for first, tags, source in cells(chapter.read_text("utf-8")):
        last = ast.parse(source).body[-1] if "figure" in tags else None
        ends = source.rstrip().endswith(";") or "grid(" in source.rstrip().split("\n")[-1]
        assert ends or not isinstance(last, ast.Expr), (
            f"{chapter.name}:{first}: end the last line of this cell with a semicolon")


@pytest.mark.parametrize("chapter", FILES, ids=lambda p: p.stem)
def test_chapter_follows_the_checklist(chapter: Path):
    text = chapter.read_text("utf-8")
    wanted = {
        "an opening box: {admonition} What you will be able to do":
            r"\{admonition\} What you will be able to do",
        'a "tempting but wrong" box': r"(?i)tempting but wrong",
        "an exercise with a folded solution": r"\{exercise-start\}(.|\n)*\{solution-start\}",
        "an explorable (refquant.explore)": r"refquant\.explore import[^\n]*\bexplorable\b",
        "what it costs": r"(?im)^#+ .*\bcosts?\b",
        "API used here": r"API used here",
        "a citation": r"\{cite:[pt]\}",
        "a numbered equation": r"^\$\$ *\(|\{math\}(.|\n){0,40}:label:|^\$\$ \(eq-|\$\$ *\(eq-",
        "the notebook to download": r"\{nb-download\}",
    }
    missing = [what for what, pattern in wanted.items() if not re.search(pattern, text)]
    assert not missing, f"{chapter.name} lacks: {'; '.join(missing)}"


def test_a_failing_cell_is_reported_at_its_line():
    text = "# T\n\n```{code-cell} python\n:tags: [claim]\nx = 1\nassert x == 2, 'no'\n```\n"
    with pytest.raises(AssertionError, match=r"^T:6: AssertionError: no"):
        run("T", text)


def test_claims_are_counted_in_claim_cells_alone():
    cell = "```{{code-cell}} python\n{}assert True\nassert True\n```\n"
    assert run("T", cell.format(":tags: [claim]\n") + cell.format("")) == 2


def test_print_options_end_with_the_chapter():
    before = np.get_printoptions()
    run("T", "```{code-cell} python\nimport numpy as np\nnp.set_printoptions(precision=2)\n```\n")
    assert np.get_printoptions() == before


def test_a_blank_of_an_exercise_must_raise():
    cell = "```{code-cell} python\n:tags: [raises-exception]\nx = 1\n```\n"
    with pytest.raises(AssertionError, match="should raise"):
        run("T", cell)


def test_every_citation_is_in_the_bibliography_once_and_every_equation_has_a_name_of_its_own():
    """The book build would say so too, a quarter of an hour later."""
    entries = (ROOT / "textbook/references.bib").read_text("utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", entries, re.M)
    assert len(keys) == len(set(keys))
    texts = [path.read_text("utf-8") for path in FILES]
    cited = {key.strip() for text in texts for group in re.findall(r"\{cite:[pt]\}`([^`]+)`", text)
             for key in group.split(",")}
    assert cited <= set(keys), f"not in references.bib: {sorted(cited - set(keys))}"
    labels = [label for text in texts
              for label in re.findall(r"^\$\$ *\((eq-[\w-]+)\)", text, re.M)]
    assert len(labels) == len(set(labels))


def test_notation_names_exist():
    """The last two columns of the notation table: a name, and the module that has it."""
    import importlib
    import inspect

    page = (ROOT / "textbook" / "reference" / "notation.md").read_text("utf-8")
    rows = re.findall(r"\| `(\w+)` \| `([\w.]+)` \|$", page, re.M)
    assert len(rows) >= 15
    for name, where in rows:
        module = importlib.import_module(f"refquant.{where}")
        known = set(module.__all__)
        for public in module.__all__:
            thing = getattr(module, public)
            members = [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]
            known |= set(getattr(thing, "__annotations__", ()))
            for member in members:
                if inspect.isfunction(member):
                    known |= set(inspect.signature(member).parameters)
        assert name in known, f"notation.md: `{name}` is not in refquant.{where}"
