import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.explore import MAX_BYTES, _line, _round_values, explorable, use_book_style
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

X = np.linspace(-1.5, 1.5, 301)


def staircase(bits, clip):
    y = fake_quantize(X, symmetric(np.array(clip), bits=bits))
    return {"input": (X, X), "output": (X, y), "error": (X, X - y)}, f"{bits} bits, clip {clip}"


def draw(frame=staircase, sliders=None, **changed):
    sliders = sliders or {"bits": [2, 3, 4, 5, 6], "clip": [0.4, 0.6, 0.8, 1.0, 1.2, 1.5]}
    settings = {"box": (-1.5, 1.5, -1.5, 1.5), "xlabel": "in", "ylabel": "out", "alt": "stairs"}
    return explorable(frame, sliders, **(settings | changed))


def stored(figure):
    return json.loads(re.search(r",D=(\{.*\});\n", figure.html)[1])


def points(path):
    """The corners of a path of M, l, h and v commands: an SVG reader in five lines."""
    at, out = (0, 0), []
    for command, a, b in re.findall(r"([Mlhv])(-?\d+)(?: (-?\d+))?", path):
        a, b = int(a), int(b or 0)
        step = {"M": (a, b), "l": (a, b), "h": (a, 0), "v": (0, a)}[command]
        at = step if command == "M" else (at[0] + step[0], at[1] + step[1])
        out.append(at)
    return out


def test_thirty_frames_of_three_curves_stay_under_the_limit():
    figure = draw()
    assert len(stored(figure)["f"]) == 30
    assert len(figure.html.encode()) < MAX_BYTES == 100_000


def test_a_heavier_figure_is_refused():
    rng = np.random.default_rng(0)

    def noise(k):
        return {"noise": (X, rng.normal(size=X.size))}, f"frame {k}"

    with pytest.raises(ValueError, match=r"must weigh at most 100000 bytes; got \d+"):
        draw(noise, {"k": list(range(60))})


def test_the_middle_frame_is_drawn_without_javascript():
    figure = draw()
    static = figure.html.split("<script>")[0]
    middle = 2 * 6 + 3
    curve = stored(figure)["f"][middle][1]
    assert f'd="{curve}"' in static
    assert "<figcaption aria-live=\"polite\">4 bits, clip 1.0</figcaption>" in static
    assert '<div class="xp-controls" hidden>' in static, "sliders are dead without the script"


def test_a_curve_that_never_changes_is_stored_once():
    assert {row[0] for row in stored(draw())["f"]} == {0}


def test_two_figures_on_one_page_have_different_ids():
    ids = [i for _ in range(2) for i in re.findall(r' id="([^"]+)"', draw().html)]
    assert len(ids) == len(set(ids)) == 4


def test_every_text_is_escaped():
    evil = '</script><b>"&\''

    def frame(value):
        return {evil: (X, X)}, evil + value

    figure = draw(frame, {evil: [evil]}, xlabel=evil, ylabel=evil, alt=evil)
    assert evil not in figure.html
    assert figure.html.count("<script") == figure.html.count("</script") == 1
    assert "<b>" not in figure.html
    assert stored(figure)["t"] == [evil + evil]


def test_the_html_is_well_formed_and_loads_nothing():
    class Balance(HTMLParser):
        depth, void = 0, ("input", "path", "rect")

        def handle_starttag(self, tag, attrs):
            self.depth += tag not in self.void
            assert not {"src", "href"} & {name for name, _ in attrs}

        def handle_endtag(self, tag):
            self.depth -= tag not in self.void
            assert self.depth >= 0

    parser = Balance()
    parser.feed(draw().html)
    assert parser.depth == 0
    assert "http" not in draw().html


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=30))
def test_merging_straight_runs_keeps_the_curve(pixels):
    x, y = np.array(pixels, float).T
    corners = points(_line(x, y, 0.0))
    assert corners[0] == pixels[0]
    assert corners[-1] == pixels[-1]
    rest = iter(corners)
    corner = next(rest)
    for a, b in itertools.pairwise(corners):     # the drawn length is the same
        assert a != b
    long = sum(np.hypot(*np.subtract(b, a)) for a, b in itertools.pairwise(pixels))
    short = sum(np.hypot(*np.subtract(b, a)) for a, b in itertools.pairwise(corners))
    assert short == pytest.approx(long)
    for point in pixels:                                      # corners occur in order
        if point == corner:
            corner = next(rest, None)
    assert corner is None


def test_a_point_that_is_not_finite_is_a_gap():
    assert _line(np.array([0, 1, np.nan, 3, 4]), np.array([0, 0, 0, 0, 5]), 0.0) == "M0 0h1M3 0l1 5"


def test_dots_and_stems_mark_each_point_once():
    def frame(k):
        return {"dot": ([0, 0, 1], [1, 1, k]), "stem": ([0, 1], [1, np.inf])}, ""

    figure = draw(frame, {"k": [0, 1]}, box=(0, 1, 0, 1), dots=["dot"], stems=["stem"])
    dot = stored(figure)["f"][1][0]
    assert dot == "M0 0h0M1120 0h0"
    assert 'd="M0 500V0"' in figure.html


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_axes_carry_four_to_eleven_round_numbers_inside_the_window(low, width):
    values = _round_values(low, low + width)
    assert 3 <= len(values) <= 12
    slack = 1e-6 * (abs(low) + width)
    assert low - slack <= values[0]
    assert values[-1] <= low + width + slack


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sliders": {"bits": []}}, "`sliders` must each have a position"),
        ({"box": (1, 1, 0, 1)}, "`box` must be"),
        ({"frame": lambda bits, clip: ({}, "")}, "`frame` must draw the curves"),
        ({"frame": lambda bits, clip: ({str(bits): (X, X)}, "")}, "`frame` must draw the curves"),
    ],
)
def test_bad_figures_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        draw(**changed)


def test_matplotlib_missing_is_told_with_the_command():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from refquant.explore import use_book_style\n"
        "try: use_book_style()\n"
        "except ModuleNotFoundError as err: print(err)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install -e ".[plot]"' in told.stdout


def test_book_style_draws_on_a_transparent_ground():
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context():
        use_book_style()
        assert matplotlib.rcParams["figure.facecolor"] == "none"
        assert matplotlib.rcParams["svg.hashsalt"] == "refquant"
