"""What the tour looks at, and what a row of it holds."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.granularity import group
from refquant.metrics import mse
from refquant.nn.data import Split, digits
from refquant.nn.models import Model, accuracy, trained_digits_cnn
from refquant.nn.network import Tap, untouched
from refquant.quantizer import Fit, Quantizer, bits_per_element, fake_quantize

__all__ = [
    "Claim",
    "Function",
    "Row",
    "RowFunction",
    "Subject",
    "View",
    "blocks",
    "decibels",
    "whole",
]

#: The same elements in a shape whose trailing axes a fit reduces over.
View: TypeAlias = Callable[[Array], Array]


class Claim(NamedTuple):
    """A sentence, and whether it is true."""

    sentence: str
    holds: bool


class Row(NamedTuple):
    """One concept, measured. NaN stands for what does not apply."""

    name: str
    bits: float = math.nan          # per weight, all parameters counted
    mse: float = math.nan           # on unit Gauss data
    sqnr: float = math.nan          # the same in dB
    expected: float = math.nan      # SQNR by theory or publication
    source: str = ""                # of the expected figure
    outliers: float = math.nan      # SQNR on the layer with outliers
    accuracy: float = math.nan      # of the network on held-out digits
    seconds: float = math.nan       # to fit, encode and decode the Gauss layer
    claims: tuple[Claim, ...] = ()

    def claim(self, sentence: str, holds: bool | np.bool_) -> Self:
        """The row with one claim more."""
        claim = Claim(f"{self.name}: {sentence}", bool(holds))
        return self._replace(claims=(*self.claims, claim))

    def expect(self, sqnr: float, source: str, *, tolerance: float = 0.1) -> Self:
        """The row with what it should measure, and the claim that it does."""
        told = f"SQNR {self.sqnr:.2f} dB is within {tolerance:g} of {sqnr:.2f} ({source})"
        row = self._replace(expected=sqnr, source=source)
        return row.claim(told, abs(self.sqnr - sqnr) <= tolerance)


@dataclass(frozen=True, eq=False)
class Subject:
    """The trained network, its digits, and two large synthetic layers.

    Attributes
    ----------
    gauss : ndarray of float32, shape (out, in)
        Unit normal: what the published figures are about.
    layer : ndarray of float32, shape (out, in)
        Rows of different spread, and four columns ten times as large: outliers.
    model : Model
        The digits network that ships with the package.
    data : Split
        Digits; the network never saw ``x_test``.
    quick : bool
        Whether all of this is smaller than it could be.
    judged : dict of bytes to float
        Accuracy by digest of the weights, filled by `accuracy_with`.
    """

    gauss: Array
    layer: Array
    model: Model
    data: Split
    quick: bool = False
    judged: dict[bytes, float] = field(default_factory=dict)

    @classmethod
    def make(cls, *, quick: bool) -> Self:
        """Everything from fixed seeds; `quick` takes smaller layers and fewer images."""
        rng = np.random.default_rng(0)
        size = 256 if quick else 1024
        gauss = rng.standard_normal((size, size)).astype(np.float32)
        layer = gauss * np.exp(0.5 * rng.standard_normal((size, 1))).astype(np.float32)
        layer[:, :: size // 4] *= 10
        data = digits()
        if quick:
            data = data._replace(x_test=data.x_test[:100], y_test=data.y_test[:100])
        return cls(gauss, layer, trained_digits_cnn(), data, quick)

    @property
    def weight_names(self) -> list[str]:
        """Names of the weights of the network: its convolutions and the last layer."""
        return [name for name in self.model.parameters if name.endswith(".weight")]

    def accuracy(self, tap: Tap = untouched) -> float:
        """Share of held-out digits read correctly with `tap` on every value."""
        return accuracy(self.model, self.data.x_test, self.data.y_test, tap=tap)

    def accuracy_with(self, change: Callable[[Array], Array]) -> float:
        """The same with every weight changed; equal weights are judged only once."""
        weights = {name: change(self.model.parameters[name]) for name in self.weight_names}
        key = hashlib.sha256(b"".join(w.tobytes() for w in weights.values())).digest()
        if key not in self.judged:
            self.judged[key] = self.accuracy(lambda name, value: weights.get(name, value))
        return self.judged[key]

    def weights(
        self, name: str, fit: Fit, *, view: View = lambda x: x, quantize: "Function" = fake_quantize
    ) -> Row:
        """Both layers and all weights of the network under one fit.

        Parameters
        ----------
        name : str
            Of the row.
        fit : callable, ndarray -> Quantizer
        view : callable, ndarray -> ndarray
            The shape in which `fit` sees a weight: `whole`, or `blocks` of some size.
        quantize : callable, (ndarray, Quantizer) -> ndarray
            The round trip; where rounding is the concept, its own.
        """

        def simulated(x: Array) -> Array:
            seen = view(x)
            return quantize(seen, fit(seen)).reshape(x.shape)

        start = time.perf_counter()
        seen = view(self.gauss)
        quantizer = fit(seen)
        x_hat = quantize(seen, quantizer).reshape(self.gauss.shape)
        seconds = time.perf_counter() - start
        noise = mse(self.gauss, x_hat)
        return Row(
            name,
            bits=bits_per_element(quantizer, seen.shape),
            mse=noise,
            sqnr=decibels(_power(self.gauss), noise),
            outliers=decibels(_power(self.layer), mse(self.layer, simulated(self.layer))),
            accuracy=self.accuracy_with(simulated),
            seconds=seconds,
        )


#: Values and their quantizer to the values after the round trip.
Function: TypeAlias = Callable[[Array, Quantizer], Array]

#: What a row of the tour is made by.
RowFunction: TypeAlias = Callable[[Subject], Row]


def whole(x: Array) -> Array:
    """The array as rows, one for each output channel: reduce over the last axis."""
    return x.reshape(len(x), -1)


def blocks(x: Array, *, size: int) -> Array:
    """Blocks of `size` neighbours within each output channel, or the whole of a smaller one.

    Shape (out, blocks, elements of a block): reduce over the last axis.
    """
    rows = whole(x)
    return group(rows, math.gcd(rows.shape[1], size) if rows.shape[1] > size else rows.shape[1])


def decibels(signal: float, noise: float) -> float:
    """Ratio of two powers, in decibels."""
    return 10 * math.log10(signal / noise) if noise > 0 else math.inf


def _power(x: Array) -> float:
    return mse(x, np.zeros_like(x))
