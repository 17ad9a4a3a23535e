"""The few argument checks, and their one form of message: "`name` must ...; got ..."."""

import numpy as np
import numpy.typing as npt

from refquant._types import Array

__all__ = [
    "as_data",
    "as_reals",
    "require_broadcastable",
    "require_codes",
    "require_finite",
    "require_fraction",
    "require_int",
    "require_no_nan",
    "require_nonempty",
    "require_positive",
]


def as_reals(name: str, x: npt.ArrayLike) -> Array:
    """`x` as an array of float32 or float64; anything else is refused.

    Integers are refused rather than converted: codes passed where values are
    expected are the commonest mistake of the field.
    """
    array = np.asarray(x)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"`{name}` must be float32 or float64; got {array.dtype}")
    return array


def as_data(name: str, x: npt.ArrayLike) -> Array:
    """`x` as what a range can be learned from: reals, at least one, all finite."""
    array = as_reals(name, x)
    require_nonempty(name, array)
    require_finite(name, array)
    return array


def require_no_nan(name: str, x: Array) -> None:
    """Raise if `x` has a NaN: no code stands for it, and no range contains it."""
    # The sum is NaN whenever an element is (also for inf - inf), and needs no
    # array of flags: the flags are built only to tell the two cases apart.
    with np.errstate(all="ignore"):
        suspicious = np.isnan(np.sum(x))
    if suspicious and np.isnan(x).any():
        raise ValueError(f"`{name}` must not contain NaN: no code stands for it")


def require_finite(name: str, x: Array) -> None:
    """Raise if `x` has a NaN or an infinity."""
    if not np.isfinite(x).all():
        bad = np.asarray(x)[~np.isfinite(x)].flat[0]
        raise ValueError(f"`{name}` must be finite; got {bad}")


def require_nonempty(name: str, x: Array) -> None:
    """Raise if `x` has no element: nothing can be learned from no data."""
    if np.size(x) == 0:
        raise ValueError(f"`{name}` must not be empty; got shape {np.shape(x)}")


def require_positive(name: str, x: Array) -> None:
    """Raise unless every element of `x` is finite and above zero."""
    good = np.isfinite(x) & (np.asarray(x) > 0)
    if not good.all():
        bad = np.asarray(x)[~good].flat[0]
        raise ValueError(f"`{name}` must be positive and finite; got {bad}")


def require_fraction(name: str, p: float) -> None:
    """Raise unless ``0 < p <= 1``."""
    if not 0 < p <= 1:                          # also for NaN
        raise ValueError(f"`{name}` must lie in (0, 1]; got {p}")


def require_int(name: str, n: int, low: int, high: int | None = None) -> None:
    """Raise unless `n` is a whole number with ``low <= n <= high``."""
    if isinstance(n, (bool, np.bool_)) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"`{name}` must be an integer; got {n!r}")
    if n < low:
        raise ValueError(f"`{name}` must be at least {low}; got {n}")
    if high is not None and n > high:
        raise ValueError(f"`{name}` must be at most {high}; got {n}")


def require_codes(name: str, codes: npt.ArrayLike, low: int, high: int) -> Array:
    """`codes` as an array of integers, all in ``[low, high]``."""
    array = np.asarray(codes)
    if array.dtype.kind not in "iu":
        raise TypeError(f"`{name}` must be integers; got {array.dtype}")
    if array.size and (array.min() < low or array.max() > high):
        bad = array[(array < low) | (array > high)].flat[0]
        raise ValueError(f"`{name}` must lie in [{low}, {high}]; got {bad}")
    return array


def require_broadcastable(name: str, parameter: Array, shape: tuple[int, ...]) -> None:
    """Raise unless `parameter` broadcasts to data of exactly this `shape`."""
    try:
        fits = np.broadcast_shapes(np.shape(parameter), shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        data, got = tuple(shape), np.shape(parameter)
        raise ValueError(f"`{name}` must broadcast to the data of shape {data}; got {got}")
