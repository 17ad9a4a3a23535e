"""The few argument checks, and their one form of message: "`name` must ...; got ..."."""

import zipfile

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Axis

__all__ = [
    "as_data",
    "as_reals",
    "as_unmasked",
    "require_axis",
    "require_broadcastable",
    "require_codes",
    "require_counts",
    "require_finite",
    "require_fraction",
    "require_int",
    "require_kind",
    "require_no_nan",
    "require_nonempty",
    "require_not_negative",
    "require_number",
    "require_positive",
    "require_quantizer",
    "require_same_shape",
    "require_second_moment",
    "require_stored",
    "require_symmetric",
    "short",
]


def as_reals(name: str, x: npt.ArrayLike) -> Array:
    """`x` as an array of float32 or float64; anything else is refused.

    Integers are refused rather than converted: codes passed where values are
    expected are the commonest mistake of the field.
    """
    array = as_unmasked(name, x)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"`{name}` must be float32 or float64; got {array.dtype}")
    return array


def as_unmasked(name: str, x: npt.ArrayLike) -> Array:
    """`x` as an array, unless it is masked: NumPy would drop the mask in silence."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"`{name}` must not be masked; got a {type(x).__name__}")
    try:
        return np.asarray(x)
    except ValueError:                          # rows of different lengths
        raise ValueError(f"`{name}` must be an array; got rows that differ in shape") from None


def as_data(name: str, x: npt.ArrayLike, *, axis: Axis = None) -> Array:
    """`x` as what a range can be learned from over `axis`: reals, at least one, all finite."""
    array = as_reals(name, x)
    require_axis(axis, array.ndim)
    require_nonempty(name, array)
    require_finite(name, array)
    return array


def require_axis(axis: Axis, ndim: int) -> None:
    """Raise unless `axis` is None or names axes of data of rank `ndim`, each once."""
    axes = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
    for one in axes:
        if isinstance(one, (bool, np.bool_)) or not isinstance(one, (int, np.integer)):
            raise TypeError(f"`axis` must be an integer, a tuple of integers or None; got {axis!r}")
    if not all(-ndim <= one < ndim for one in axes):
        raise ValueError(f"`axis` must name axes of data of rank {ndim}; got {axis}")
    if len({one % ndim for one in axes}) < len(axes):
        raise ValueError(f"`axis` must name each axis once; got {axis}")


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
    if np.asarray(x).dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must be real numbers; got {short(repr(x))}")
    good = np.isfinite(x) & (np.asarray(x) > 0)
    if not good.all():
        bad = np.asarray(x)[~good].flat[0]
        raise ValueError(f"`{name}` must be positive and finite; got {bad}")


def require_number(name: str, p: float) -> None:
    """Raise unless `p` is one real number."""
    if isinstance(p, (str, bytes)) or np.ndim(p) or np.asarray(p).dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must be a real number; got {p!r}")


def require_not_negative(name: str, p: float) -> None:
    """Raise unless `p` is one finite number, at least 0."""
    require_number(name, p)
    if not p >= 0:                              # also for NaN
        raise ValueError(f"`{name}` must not be negative; got {p}")
    require_finite(name, np.asarray(p))


def require_fraction(name: str, p: float) -> None:
    """Raise unless ``0 < p <= 1``."""
    require_number(name, p)
    if not 0 < p <= 1:                          # also for NaN
        raise ValueError(f"`{name}` must lie in (0, 1]; got {p}")


def require_int(name: str, n: int, low: int, high: int | None = None) -> int:
    """`n` as an int of Python, whose sums and powers cannot overflow; ``low <= n <= high``."""
    if isinstance(n, (bool, np.bool_)) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"`{name}` must be an integer; got {n!r}")
    if n < low:
        raise ValueError(f"`{name}` must be at least {low}; got {n}")
    if high is not None and n > high:
        raise ValueError(f"`{name}` must be at most {high}; got {n}")
    return int(n)


def require_codes(
    name: str, codes: npt.ArrayLike, low: int, high: int, *, step: int = 1
) -> Array:
    """`codes` as an array of integers, all of ``low, low + step, ..., high``."""
    array = as_unmasked(name, codes)
    if array.dtype.kind not in "iu":
        raise TypeError(f"`{name}` must be integers; got {array.dtype}")
    if array.size and (array.min() < low or array.max() > high):
        bad = array[(array < low) | (array > high)].flat[0]
        raise ValueError(f"`{name}` must lie in [{low}, {high}]; got {bad}")
    if step > 1:
        # Of two's complement, & is the remainder by a power of two, and ten times as fast.
        rest = array & (step - 1) if step & (step - 1) == 0 else array % step
        if (rest != low % step).any():
            bad = array[rest != low % step].flat[0]
            raise ValueError(f"`{name}` must be {low} plus a multiple of {step}; got {bad}")
    return array


def require_counts(name: str, counts: npt.ArrayLike) -> Array:
    """`counts` as one row of whole numbers, none negative, not all zero."""
    array = as_unmasked(name, counts)
    if array.dtype.kind not in "iu":
        raise TypeError(f"`{name}` must be integers; got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"`{name}` must be one row; got shape {array.shape}")
    if (array < 0).any() or not array.any():
        raise ValueError(f"`{name}` must be at least 0, not all 0; got sum {array.sum()}")
    return array


def require_kind(name: str, value: object, kind: type) -> None:
    """Raise unless `value` is a `kind`, such as the packed weight that a function made."""
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be `{kind.__name__}`; got {type(value).__name__}")


def require_quantizer(name: str, value: object) -> None:
    """Raise unless `value` can encode and decode, whatever class it is of."""
    if not all(callable(getattr(value, verb, None)) for verb in ("encode", "decode")):
        raise TypeError(f"`{name}` must be, or return, a quantizer; got {type(value).__name__}")


def require_same_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise unless `array` has exactly this `shape`."""
    if np.shape(array) != shape:
        raise ValueError(f"`{name}` must have shape {shape}; got {np.shape(array)}")


def require_second_moment(name: str, matrix: Array) -> None:
    """Raise unless a square `matrix` may be a mean of outer products, as far as a look can tell.

    Of a negative one the smallest error is the worst, and damping can hide it.
    """
    require_finite(name, matrix)
    require_symmetric(name, matrix)
    diagonal = np.diag(matrix)
    if (diagonal < 0).any():
        raise ValueError(f"`{name}` must not be negative on its diagonal; got {diagonal.min()}")


def require_symmetric(name: str, matrix: Array) -> None:
    """Raise if a square `matrix` is not its own transpose, up to a thousandth of its diagonal.

    Sums in float32 may differ by their order on the two sides. Half a matrix may not pass: a
    factorization reads one side alone and would not notice.
    """
    n, some = len(matrix), 16           # rows of a strip: few enough to be read by columns
    allowed = 1e-3 * np.abs(np.diag(matrix)).max(initial=0)
    for start in range(0, n, some):
        stop = min(start + some, n)
        apart = np.abs(matrix[:stop, start:stop] - matrix[start:stop, :stop].T).max()
        if not apart <= allowed:
            raise ValueError(f"`{name}` must be symmetric; got entries that are {apart:.3g} apart")


def require_broadcastable(name: str, parameter: Array, shape: tuple[int, ...]) -> None:
    """Raise unless `parameter` broadcasts to data of exactly this `shape`."""
    try:
        fits = np.broadcast_shapes(np.shape(parameter), shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        data, got = tuple(shape), np.shape(parameter)
        raise ValueError(f"`{name}` must broadcast to the data of shape {data}; got {got}")


def require_stored(archive: zipfile.ZipFile, size: int) -> None:
    """Raise unless nothing in a file of `size` bytes grows when it is read: no bomb is opened."""
    members = archive.infolist()
    held = sum(max(member.file_size, member.compress_size) for member in members)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or held > size:
        raise ValueError(f"an archive must hold its {held} bytes as they are; got {size}")


def short(found: object, longest: int = 80) -> str:
    """What was found, as part of a message: on one line and not too long."""
    text = " ".join(str(found).split())
    return text if len(text) <= longest else text[: longest - 3] + "..."
