"""Draw a figure with sliders that needs no kernel, no network and no JavaScript library.

Every frame is computed by the library beforehand and stored as a path on a pixel
grid; a slider picks one. So the figure cannot disagree with the code, works from
`file://` and in a printed page, where its middle frame stands still.
"""

import html
import itertools
import json
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array

__all__ = ["MAX_BYTES", "Explorable", "explorable", "use_book_style"]

#: What one figure may weigh on its page.
MAX_BYTES = 100_000

# Curves by name, each an ``(x, y)`` pair, and the caption that says what they show.
Frame: TypeAlias = tuple[Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], str]

_WIDTH, _HEIGHT = 1120, 500                     # of the plot, in half pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 116, 24, 16, 92  # margins: room for the numbers
_COLOURS = ["#2f81c7", "#e0662f", "#3a9d5d", "#b05fc0", "#c79a1b"]   # of book.mplstyle
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Explorable:
    """A figure that notebooks and the book show as HTML.

    Attributes
    ----------
    html : str
        A `figure` element with its style and script, complete in itself.
    alt : str
        What it shows, in words.

    Examples
    --------
    >>> Explorable("<figure></figure>", "nothing yet")
    [interactive figure: nothing yet]
    """

    html: str
    alt: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"[interactive figure: {self.alt}]"


def explorable(
    frame: Callable[..., Frame],
    sliders: Mapping[str, Sequence[object]],
    *,
    box: tuple[float, float, float, float],
    xlabel: str,
    ylabel: str,
    alt: str,
    dots: Collection[str] = (),
    stems: Collection[str] = (),
    faint: Collection[str] = (),
) -> Explorable:
    """A line drawing with one slider per parameter, all of its frames computed now.

    Parameters
    ----------
    frame : callable
        ``frame(*values)``, one value per slider, gives the curves and the caption
        of one frame. Every frame has the same curves; a point that is not finite
        is a gap.
    sliders : mapping of str to sequence
        Label and positions of each slider. It starts in the middle.
    box : tuple of float
        The window ``(left, right, bottom, top)`` in the units of the data.
    xlabel, ylabel : str
        What the axes measure.
    alt : str
        What the figure shows, in words, for those who do not see it.
    dots, stems : collection of str
        Curves drawn as dots, or as vertical lines from zero, instead of as a line.
    faint : collection of str
        Curves that are only there for comparison: grey and dashed.

    Returns
    -------
    Explorable
        At most `MAX_BYTES` bytes of HTML.

    Raises
    ------
    ValueError
        If there is nothing to slide or to draw, the window is empty, the frames
        have different curves, or the figure is too heavy.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 101)
    >>> figure = explorable(
    ...     lambda power: ({"x": (x, x), "power": (x, x**power)}, f"x to the {power}"),
    ...     {"power": [1, 2, 3]},
    ...     box=(-1, 1, -1, 1), xlabel="x", ylabel="y", alt="powers of x", faint=["x"],
    ... )
    >>> figure
    [interactive figure: powers of x]
    >>> len(figure.html) < 6000
    True
    """
    if not sliders or not all(len(values) for values in sliders.values()):
        raise ValueError(f"`sliders` must each have a position; got {dict(sliders)}")
    x0, x1, y0, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"`box` must be (left, right, bottom, top), increasing; got {box}")
    names: list[str] = []
    paths: list[list[str]] = []
    captions: list[str] = []
    for values in itertools.product(*sliders.values()):
        curves, caption = frame(*values)
        names = names or list(curves)
        if not names or list(curves) != names:
            raise ValueError(f"`frame` must draw the curves {names} each time; got {list(curves)}")
        row = []
        for name, (x, y) in curves.items():
            px, py = _pixels(x, x0, x1, _WIDTH), _pixels(y, y1, y0, _HEIGHT)
            zero = float(_pixels(0.0, y1, y0, _HEIGHT))
            mark = _stems if name in stems else _dots if name in dots else _line
            row.append(mark(px, py, min(max(zero, 0), _HEIGHT)))
        paths.append(row)
        captions.append(caption)
    figure = Explorable(_page(names, paths, captions, sliders, box, (xlabel, ylabel), alt,
                              faint, {*dots}), alt)
    weight = len(figure.html.encode())
    if weight > MAX_BYTES:
        raise ValueError(
            f"the figure must weigh at most {MAX_BYTES} bytes; got {weight}: "
            "fewer slider positions, or fewer points"
        )
    return figure


def use_book_style() -> None:
    """Figures in the style of the book: transparent, reproducible SVG.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed, with the command that installs it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as err:
        raise ModuleNotFoundError(
            'figures must have matplotlib; install it by: pip install -e ".[plot]"'
        ) from err
    plt.style.use(Path(__file__).parent / "book.mplstyle")
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:  # inside a notebook
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats(  # type: ignore[no-untyped-call, unused-ignore]
            "svg", metadata={"Date": None}, bbox_inches=None
        )


def _pixels(values: npt.ArrayLike, start: float, stop: float, length: int) -> Array:
    """Whole pixels, NaN where there is no point; far outside becomes just outside."""
    at = (np.asarray(values, np.float64) - start) / (stop - start) * length
    # Plus zero: "-0" is no number of a path.
    return np.rint(np.clip(np.where(np.isfinite(at), at, np.nan), -length, 2 * length)) + 0.0


def _line(x: Array, y: Array, zero: float) -> str:
    """Path through the points in relative moves, straight runs merged into one."""
    path: list[str] = []
    here: tuple[int, int] | None = None
    run = (0, 0)                    # the pending move

    def flush() -> None:
        nonlocal run
        if run != (0, 0):
            path.append(f"h{run[0]}" if run[1] == 0 else f"v{run[1]}" if run[0] == 0
                        else f"l{run[0]} {run[1]}")
        run = (0, 0)

    for px, py in zip(*np.broadcast_arrays(x, y), strict=True):
        if math.isnan(px) or math.isnan(py):
            flush()
            here = None
            continue
        point = int(px), int(py)
        if here is None:
            path.append(f"M{point[0]} {point[1]}")
        else:
            step = point[0] - here[0], point[1] - here[1]
            same_way = step[0] * run[1] == step[1] * run[0] and (
                step[0] * run[0] + step[1] * run[1] >= 0)
            if not same_way:
                flush()
            run = run[0] + step[0], run[1] + step[1]
        here = point
    flush()
    return "".join(path)


def _dots(x: Array, y: Array, zero: float) -> str:
    """Path of strokes without length; their round ends are the dots."""
    return "".join(f"M{px:.0f} {py:.0f}h0" for px, py in _distinct(x, y))


def _stems(x: Array, y: Array, zero: float) -> str:
    """Path of vertical lines from zero to each point."""
    return "".join(f"M{px:.0f} {zero:.0f}V{py:.0f}" for px, py in _distinct(x, y))


def _distinct(x: Array, y: Array) -> list[tuple[float, float]]:
    pairs = zip(*(a.ravel().tolist() for a in np.broadcast_arrays(x, y)), strict=True)
    return [pair for pair in dict.fromkeys(pairs) if not any(map(math.isnan, pair))]


def _page(
    names: list[str],
    paths: list[list[str]],
    captions: list[str],
    sliders: Mapping[str, Sequence[object]],
    box: tuple[float, float, float, float],
    labels: tuple[str, str],
    alt: str,
    faint: Collection[str],
    dots: Collection[str],
) -> str:
    """The `figure` element. All text is escaped; the script only picks among strings."""
    uid = f"xp-{next(_numbers)}"
    middle = 0
    for values in sliders.values():
        middle = middle * len(values) + len(values) // 2
    shown = [[_text(v) for v in values] for values in sliders.values()]
    constant = [len({row[i] for row in paths}) == 1 for i in range(len(names))]
    data = {
        "s": shown,                                                # slider texts
        "f": [[0 if same else p for same, p in zip(constant, row, strict=True)] for row in paths],
        "t": captions,
    }
    # "<" may not occur in a script: "</script>" in a caption would end it.
    script = _SCRIPT % (uid, json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
    colours = iter(itertools.cycle(_COLOURS))
    curves, keys = [], []
    for i, name in enumerate(names):
        colour = "currentColor" if name in faint else next(colours)
        look = ' stroke-dasharray="9 7" opacity=".6"' if name in faint else ""
        wide = 11 if name in dots else 4
        curves.append(f'<path data-n="{i}" stroke="{colour}" stroke-width="{wide}"{look} '
                      f'd="{paths[middle][i]}"/>')
        keys.append(f'<span style="color:{colour}">{"╌" if look else "━"} '
                    f"{html.escape(name)}</span>")
    controls = "".join(
        f'<label>{html.escape(label)} <input type="range" min="0" max="{len(texts) - 1}" '
        f'value="{len(texts) // 2}" aria-valuetext="{html.escape(texts[len(texts) // 2])}"> '
        f"<output>{html.escape(texts[len(texts) // 2])}</output></label>"
        for label, texts in zip(sliders, shown, strict=True)
    )
    view = (f"{-_LEFT} {-_TOP} {_WIDTH + _LEFT + _RIGHT} {_HEIGHT + _TOP + _BOTTOM}")
    return (
        f'<figure class="explorable" id="{uid}"><style>{_STYLE}</style>'
        f'<div class="xp-controls" hidden>{controls}</div>'
        f'<svg viewBox="{view}" role="img" aria-label="{html.escape(alt)}">'
        f'<clipPath id="{uid}-window"><rect x="-6" y="-6" width="{_WIDTH + 12}" '
        f'height="{_HEIGHT + 12}"/></clipPath>{_axes(box, labels)}'
        f'<g clip-path="url(#{uid}-window)">{"".join(curves)}</g></svg>'
        f'<div class="xp-legend">{"".join(keys)}</div>'
        f'<figcaption aria-live="polite">{html.escape(captions[middle])}</figcaption>'
        f"<script>{script}</script></figure>"
    )


def _axes(box: tuple[float, float, float, float], labels: tuple[str, str]) -> str:
    """Frame, zero lines, numbers at round values, and what is measured."""
    x0, x1, y0, y1 = box
    lines = [f"M0 0V{_HEIGHT}H{_WIDTH}"]
    texts = []
    for v in _round_values(x0, x1):
        at = int(_pixels(v, x0, x1, _WIDTH))
        lines.append(f"M{at} {_HEIGHT}v8" if v else f"M{at} 0V{_HEIGHT + 8}")
        texts.append(f'<text x="{at}" y="{_HEIGHT + 36}" text-anchor="middle">{v:g}</text>')
    for v in _round_values(y0, y1):
        at = int(_pixels(v, y1, y0, _HEIGHT))
        lines.append(f"M0 {at}h-8" if v else f"M-8 {at}H{_WIDTH}")
        texts.append(f'<text x="-14" y="{at + 8}" text-anchor="end">{v:g}</text>')
    xlabel, ylabel = map(html.escape, labels)
    texts.append(f'<text x="{_WIDTH // 2}" y="{_HEIGHT + 76}" text-anchor="middle">{xlabel}</text>')
    texts.append(f'<text transform="translate({24 - _LEFT} {_HEIGHT // 2}) rotate(-90)" '
                 f'text-anchor="middle">{ylabel}</text>')
    return f'<path class="xp-axis" d="{"".join(lines)}"/>{"".join(texts)}'


def _round_values(low: float, high: float) -> list[float]:
    """Four to nine multiples of 1, 2 or 5 times a power of ten inside the window."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(unit * m for m in (5, 2, 1) if (high - low) / (unit * m) >= 4)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


_STYLE = (
    ".explorable{margin:1.2em 0;font-size:.92em;color:inherit}"
    ".explorable svg{width:100%;max-width:660px;height:auto;display:block}"
    ".explorable path{fill:none;stroke-linecap:round;stroke-linejoin:round}"
    ".explorable .xp-axis{stroke:currentColor;stroke-width:2;opacity:.4}"
    ".explorable text{fill:currentColor;font-size:24px}"
    ".explorable .xp-controls:not([hidden]){display:flex;flex-wrap:wrap;gap:.4em 1.6em}"
    ".explorable label{display:flex;align-items:center;gap:.5em}"
    ".explorable output{min-width:2.6em;font-variant-numeric:tabular-nums}"
    ".explorable .xp-legend{display:flex;flex-wrap:wrap;gap:0 1.4em;margin-left:3em}"
    "@media print{.explorable .xp-controls{display:none!important}}"
)

_SCRIPT = """
(function(){const R=document.getElementById("%s"),D=%s;
const I=[...R.querySelectorAll("input")],O=[...R.querySelectorAll("output")];
R.querySelector(".xp-controls").hidden=false;
I.forEach(e=>e.addEventListener("input",function(){let k=0;
I.forEach((e,i)=>{const t=D.s[i][+e.value];k=k*D.s[i].length+(+e.value);
O[i].textContent=t;e.setAttribute("aria-valuetext",t);});
D.f[k].forEach((d,i)=>{if(d!==0)R.querySelector('[data-n="'+i+'"]').setAttribute("d",d);});
R.querySelector("figcaption").textContent=D.t[k];}));})();
"""
