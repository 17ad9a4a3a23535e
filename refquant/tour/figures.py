"""The plots of the report, as SVG text: drawn by matplotlib, the same bytes every time."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from refquant._types import Array
from refquant.calibration.aciq import GAUSS
from refquant.calibration.density import expected_mse
from refquant.calibration.minmax import absmax
from refquant.metrics import error_parts, sqnr
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric
from refquant.tour.subject import Subject, View, decibels, whole
from refquant.tour.uniform import levels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "Drawing", "draw"]

STYLE = Path(__file__).parent.parent / "book.mplstyle"
GREY = "808080"         # of the style: becomes the colour of the text of the page


class Drawing(NamedTuple):
    """A figure, what it shows in words, and what to see in it."""

    svg: str
    alt: str
    caption: str


def staircase(subject: Subject, figure: "Figure") -> tuple[str, str]:
    """Input to output of eight levels, and the error."""
    x = np.linspace(-1.5, 1.5, 1201)
    x_hat = fake_quantize(x, symmetric(np.array(1.0), bits=3))
    axes = figure.subplots()
    axes.plot(x, x, linestyle=":", color=f"#{GREY}", label="float")
    axes.plot(x, x_hat, label="quantized")
    axes.plot(x, x_hat - x, label="error")
    axes.set(xlabel="value", ylabel="value after the round trip")
    axes.legend()
    alt = (
        "A staircase of seven steps from -1 to 1 follows the diagonal and stays flat beyond; "
        "the error is a saw of height a sixth within, and grows without bound outside."
    )
    caption = "A 3-bit symmetric quantizer: rounding inside its range, clipping outside."
    return alt, caption


def clipping(subject: Subject, figure: "Figure") -> tuple[str, str]:
    """Rounding and clipping error of the Gauss layer over the bound."""
    bounds = np.linspace(0.6, 5, 23)
    x = subject.gauss[:128]
    parts = []
    for bound in bounds:
        quantizer = symmetric(np.array(bound), bits=4)
        ends = np.array(-bound), np.array(bound)
        parts.append(error_parts(x, fake_quantize(x, quantizer), *ends))
    best = bounds[np.argmin([part.rounding + part.clipping for part in parts])]
    axes = figure.subplots()
    axes.plot(bounds, [part.rounding + part.clipping for part in parts], label="sum")
    axes.plot(bounds, [part.clipping for part in parts], "--", label="clipping")
    axes.plot(bounds, [part.rounding for part in parts], "--", label="rounding")
    axes.axvline(2.4739, color=f"#{GREY}", linestyle=":")
    axes.annotate("theory 2.474", (2.4739, 0.1), xytext=(4, 0), textcoords="offset points")
    axes.set(xlabel="bound, in standard deviations", ylabel="mean squared error", yscale="log",
             ylim=(1e-4, 0.3))
    axes.legend()
    alt = (
        "Over the bound, clipping error falls and rounding error rises; their sum is a valley "
        f"whose lowest point measured is at {best:.1f} and by theory at 2.47."
    )
    return alt, "4 bits on unit Gauss weights: clip too much, or round too coarsely."


def sqnr_by_bits(subject: Subject, figure: "Figure") -> tuple[str, str]:
    """Measured SQNR against the integral, and the law of 6 dB a bit."""
    widths = np.arange(2, 9)
    measured, exact = [], []
    for bits in widths:
        quantizer = symmetric(absmax(subject.gauss), bits=int(bits))
        measured.append(sqnr(subject.gauss, fake_quantize(subject.gauss, quantizer)))
        exact.append(decibels(1.0, expected_mse(levels(quantizer), GAUSS)))
    # Least noise of 2**b evenly spaced levels, unit Gauss: Max 1960, recomputed.
    best = [0.1188461, 0.0374397, 0.0115429, 0.00349521, 0.00104005, 3.043328e-4, 8.768619e-5]
    axes = figure.subplots()
    axes.plot(widths, 6.0206 * widths, linestyle=":", color=f"#{GREY}", label="6.02 dB a bit")
    axes.plot(widths, [decibels(1.0, d) for d in best], label="best uniform (Max 1960)")
    axes.plot(widths, exact, label="min-max, by integration")
    axes.plot(widths, measured, "o", label="min-max, measured")
    axes.set(xlabel="bits", ylabel="SQNR, dB")
    axes.legend()
    alt = (
        "SQNR over bits: the measured points of min-max lie on the curve found by integration, "
        "below the best uniform quantizer, which lies below 6.02 dB a bit."
    )
    return alt, "Measured on the curve that theory draws; the rest is for calibration to win."


def accuracy_by_bits(subject: Subject, figure: "Figure") -> tuple[str, str]:
    """Accuracy of the network over bits, one scale or one per channel."""
    widths = [2, 3, 4, 5, 6, 8]
    axes = figure.subplots()
    views: list[tuple[str, View]] = [
        ("per tensor", lambda x: x.reshape(1, -1)), ("per channel", whole),
    ]
    drawn = {}
    for name, view in views:
        drawn[name] = [100 * _accuracy(subject, view, bits) for bits in widths]
        axes.plot(widths, drawn[name], "o-", label=name)
    axes.axhline(100 * subject.accuracy(), color=f"#{GREY}",
                 linestyle=":", label="float32")
    axes.set(xlabel="bits of the weights", ylabel="digits read correctly, %")
    axes.legend()
    told = "; ".join(
        f"{name}: " + ", ".join(f"{y:.1f} at {b}" for b, y in zip(widths, ys, strict=True))
        for name, ys in drawn.items()
    )
    return f"Accuracy in percent over bits. {told}.", "Min-max ranges, no calibration, no training."


def histogram(subject: Subject, figure: "Figure") -> tuple[str, str]:
    """Weights of one layer, and the sixteen levels they move to."""
    name = "r2a.weight"
    weight = subject.model.parameters[name]
    axes = figure.subplots()
    bound = float(absmax(weight).item())
    axes.hist(weight.reshape(-1), bins=np.linspace(-bound, bound, 81).tolist(), color="#2f81c7")
    for level in levels(symmetric(np.array(bound), bits=4)):
        axes.axvline(level, color="#e0662f", linewidth=0.8)
    axes.set(xlabel=f"weights of {name}", ylabel="count")
    alt = (
        f"Histogram of {weight.size} weights, dense around zero, thin towards the ends; fifteen "
        "evenly spaced levels, most of them where few weights are."
    )
    return alt, "4-bit levels by min-max: the outer ones serve almost nobody."


Plot = Callable[[Subject, "Figure"], tuple[str, str]]
FIGURES: list[Plot] = [staircase, clipping, sqnr_by_bits, accuracy_by_bits, histogram]


def draw(subject: Subject) -> list[Drawing] | None:
    """Every figure; None without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return None
    drawings = []
    for number, plot in enumerate(FIGURES):
        with mpl.rc_context(fname=STYLE):
            figure = Figure(figsize=(6, 3.2), layout="constrained")
            alt, caption = plot(subject, figure)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        drawings.append(Drawing(_inline(text.getvalue(), f"f{number}-"), alt, caption))
    return drawings


def _inline(svg: str, prefix: str) -> str:
    """The `svg` element alone, with ids of its own and the colour of the page's text."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = svg.replace(f"#{GREY}", "currentColor")
    return svg


def _accuracy(subject: Subject, view: View, bits: int) -> float:
    def simulated(x: Array) -> Array:
        seen = view(x)
        return fake_quantize(seen, symmetric(absmax(seen, axis=-1), bits=bits)).reshape(x.shape)

    return subject.accuracy_with(simulated)
