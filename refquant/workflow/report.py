r"""What each tensor of a file would lose in each scheme, and which is the cheapest that will do.

=============  =======================================================  ===========
scheme         what shares a scale                                      bits stored
=============  =======================================================  ===========
int8 tensor    all                                                      8
int8 row       an output                                                8 + 16 / in
int4 row       an output                                                4 + 16 / in
int4 g128      128 inputs of an output, with a zero point               4.16
int4 g32       32, with a zero point                                    4.62
int3 g32       32, with a zero point                                    3.59
nf4 g64        64, levels of a normal distribution                      4.25
mxfp4          32, floats of 4 bits, scales powers of two               4.25
ternary        an output: -1, 0, 1                                      2 + 32 / in
=============  =======================================================  ===========

The measure is the SQNR of the weights, and no more than that: what a network loses by it
depends on the network, as `refquant quantize` and `refquant workflow` measure. Rows are the
first axis; everything is done on some rows at a time. Tensors are handed to joblib: one after
the other, or on the threads, processes or dask cluster that the caller names with
``joblib.parallel_config``.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply._at_once import at_once
from refquant.calibration.minmax import absmax, minmax
from refquant.calibration.mse import omse
from refquant.quantizer import Quantizer, bits_per_element, fake_quantize
from refquant.quantizers.block import mx
from refquant.quantizers.normal_float import block_absmax
from refquant.quantizers.ternary import twn
from refquant.quantizers.uniform import asymmetric, symmetric
from refquant.workflow.tensors import Stored

__all__ = ["SCHEMES", "Loss", "Scheme", "TensorReport", "examine", "examine_all", "suggestion"]

#: Elements looked at together; what it takes beside the tensor is a few times this.
CHUNK = 2**18
#: Elements that a clip is searched on: the first so many rows that fit.
CLIP_SAMPLE = 2**18


class Scheme(NamedTuple):
    """A way to store a matrix.

    Attributes
    ----------
    name : str
    group : int
        Inputs that share a scale; 0: the row, -1: the whole tensor.
    fit : callable, ndarray (rows, groups, group) -> Quantizer

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-E (granularity).
    """

    name: str
    group: int
    fit: Callable[[Array], Quantizer]


class Loss(NamedTuple):
    """What a scheme costs and loses.

    Attributes
    ----------
    bits : float
        Per weight, parameters of 16 bits included.
    mse : float
    sqnr : float
        In dB; infinite if nothing is lost.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-E.
    """

    bits: float
    mse: float
    sqnr: float


class TensorReport(NamedTuple):
    """Everything about a tensor.

    Attributes
    ----------
    name : str
    shape : tuple of int
    kept : str
        Why it is not looked at; empty if it is.
    largest, deviation : float
        Largest magnitude and standard deviation.
    outliers : float
        Share of elements beyond six deviations.
    clip : float
        Best bound of int4 for the whole tensor, over the largest magnitude.
    losses : mapping of str to Loss
        By the name of the scheme; those whose groups do not divide a row are not there.

    References
    ----------
    Dettmers et al., 2022, arXiv:2208.07339, section 4 (outliers by deviation).
    """

    name: str
    shape: tuple[int, ...]
    kept: str
    largest: float = 0.0
    deviation: float = 0.0
    outliers: float = 0.0
    clip: float = 1.0
    losses: Mapping[str, Loss] = {}


def _grouped(bits: int, w: Array) -> Quantizer:
    return asymmetric(*minmax(w, axis=-1), bits=bits)


def _by_row(bits: int, w: Array) -> Quantizer:
    return symmetric(absmax(w, axis=(1, 2)), bits=bits)


SCHEMES = (
    Scheme("int8 tensor", -1, partial(_by_row, 8)),
    Scheme("int8 row", 0, partial(_by_row, 8)),
    Scheme("nf4 g64", 64, block_absmax),
    Scheme("mxfp4", 32, mx),
    Scheme("int4 g32", 32, partial(_grouped, 4)),
    Scheme("int4 g128", 128, partial(_grouped, 4)),
    Scheme("int4 row", 0, partial(_by_row, 4)),
    Scheme("int3 g32", 32, partial(_grouped, 3)),
    Scheme("ternary", 0, partial(twn, axis=(1, 2))),
)


def examine(name: str, tensor: Array) -> TensorReport:
    """The report of one tensor.

    Parameters
    ----------
    name : str
    tensor : ndarray, any shape
        The first axis are outputs.

    Returns
    -------
    TensorReport
        Of vectors, integers and tensors that are not finite only the reason why not.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III.

    Examples
    --------
    >>> w = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    >>> found = examine("w", w)
    >>> round(found.losses["int8 row"].sqnr), round(found.losses["int4 g32"].bits, 2)
    (44, 4.62)
    """
    shape = tensor.shape
    if tensor.dtype.kind != "f":
        return TensorReport(name, shape, f"{tensor.dtype}: no floats")
    if tensor.ndim < 2 or tensor.size == 0 or tensor.size // len(tensor) < 2:
        return TensorReport(name, shape, "no matrix: stays float")
    rows = tensor.reshape(len(tensor), -1)
    power, total, largest = 0.0, 0.0, 0.0
    for part in _parts(rows):
        if not np.isfinite(part).all():
            return TensorReport(name, shape, "not finite")
        power += float(np.square(part, dtype=np.float64).sum())
        total += float(part.sum(dtype=np.float64))
        largest = max(largest, float(np.abs(part).max()))
    if not largest:
        return TensorReport(name, shape, "all zero")
    mean = total / rows.size
    deviation = float(np.sqrt(max(power / rows.size - mean**2, 0.0)))
    beyond = sum(int((np.abs(part - mean) > 6 * deviation).sum()) for part in _parts(rows))
    return TensorReport(name, shape, "", largest, deviation, beyond / rows.size,
                        _best_clip(rows, largest), _losses(rows, largest, power))


def examine_all(
    stored: Sequence[Stored], *, progress: Callable[[TensorReport], None] = lambda report: None
) -> list[TensorReport]:
    """The reports of all tensors of a file, at once where joblib can.

    Parameters
    ----------
    stored : sequence of Stored
        Each is read where it is examined, so that a worker has one tensor in memory. A backend
        with processes must be able to pickle its `read`, and find the file.
    progress : callable, TensorReport -> None
        Hears of each tensor that is done, as it is done, in the caller's thread.

    Returns
    -------
    list of TensorReport
        In the order of `stored`, the same on every backend.

    Raises
    ------
    ValueError
        If a tensor cannot be read where it is examined: a damaged file, or a worker that does
        not have it.

    Notes
    -----
    The largest come first, or the last of the workers might be left alone with them.

    References
    ----------
    Graham, 1969, "Bounds on multiprocessing timing anomalies" (longest first).

    Examples
    --------
    >>> from joblib import parallel_config
    >>> w = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    >>> with parallel_config("threading", n_jobs=2):
    ...     found = examine_all([Stored("w", w.shape, lambda: w), Stored("b", (64,), lambda: w[0])])
    >>> [suggestion(r) or r.kept for r in found]
    ['nf4 g64', 'no matrix: stays float']
    """
    order = sorted(range(len(stored)), key=lambda i: -math.prod(stored[i].shape))
    calls = ((i, stored[i]) for i in order)
    found: dict[int, TensorReport] = {}
    for i, report in at_once(_examined, calls, return_as="generator_unordered"):
        found[i] = report
        progress(report)
    return [found[i] for i in range(len(stored))]


def suggestion(report: TensorReport, *, sqnr: float = 20.0) -> str | None:
    """Name of the scheme of fewest bits that keeps this SQNR; None if none does.

    Parameters
    ----------
    report : TensorReport
    sqnr : float
        In dB; 20 dB is an error of a hundredth of the power.

    Returns
    -------
    str or None
        Of equal bits the better.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-E.

    Examples
    --------
    >>> w = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    >>> suggestion(examine("w", w)), suggestion(examine("w", w), sqnr=30.0)
    ('nf4 g64', 'int8 tensor')
    """
    good = [(loss.bits, -loss.sqnr, name) for name, loss in report.losses.items()
            if loss.sqnr >= sqnr]
    return min(good)[2] if good else None


def _examined(place: int, tensor: Stored) -> tuple[int, TensorReport]:
    try:
        array = tensor.read()
    except OSError as err:
        raise ValueError(f"`{tensor.name}` must lie in a file that can be read; "
                         f"got {err}") from None
    return place, examine(tensor.name, array)


def _parts(rows: Array) -> Iterator[Array]:
    """Some rows at a time, in float32 at least; a long row on its own."""
    step = max(CHUNK // rows.shape[1], 1)
    for i in range(0, len(rows), step):
        part = rows[i : i + step]
        yield part if part.dtype in (np.float32, np.float64) else part.astype(np.float32)


def _losses(rows: Array, largest: float, power: float) -> dict[str, Loss]:
    noise: dict[str, float] = {}
    bits: dict[str, float] = {}
    n = rows.shape[1]
    for scheme in SCHEMES:
        if scheme.group > 0 and n % scheme.group:
            continue
        noise[scheme.name] = 0.0
        for part in _parts(rows):
            size = scheme.group if scheme.group > 0 else n
            blocks = part.reshape(len(part), n // size, size)
            if scheme.group < 0:
                q: Quantizer = symmetric(np.array(largest, part.dtype), bits=8)
            else:
                q = scheme.fit(blocks)
            error = np.subtract(blocks, fake_quantize(blocks, q), dtype=np.float64)
            noise[scheme.name] += float(np.square(error).sum())
        shape = (len(part), n // size, size)
        bits[scheme.name] = bits_per_element(q, shape, float_bits=16) if scheme.group >= 0 else (
            8 + 16 / rows.size)
    return {name: Loss(bits[name], e / rows.size,
                       float(10 * np.log10(power / e)) if e else float("inf"))
            for name, e in noise.items()}


def _best_clip(rows: Array, largest: float) -> float:
    """Bound of least squared error at 4 bits over the largest magnitude, from the first rows."""
    first = next(_parts(rows))
    sample = first[: max(CLIP_SAMPLE // rows.shape[1], 1)]
    top = float(np.abs(sample).max())
    if not top:
        return 1.0
    found = omse(sample, partial(symmetric, bits=4))
    return float(found.scale.item()) * 7 / top
