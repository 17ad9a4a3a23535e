"""Random words in integer arithmetic, the same for ever: NumPy's distributions may change."""

from collections.abc import Iterator


def splitmix64(seed: int) -> Iterator[int]:
    """Words of 64 bits from a seed, without end.

    Parameters
    ----------
    seed : int
        Taken modulo 2**64.

    Yields
    ------
    int

    References
    ----------
    Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators", figure 16.

    Examples
    --------
    >>> words = splitmix64(1234567)
    >>> next(words), next(words)
    (6457827717110365317, 3203168211198807973)
    """
    mask, state = 2**64 - 1, seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        word = state
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & mask
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB & mask
        yield word ^ (word >> 31)


def floats(seed: int, *, low: int, high: int) -> Iterator[int]:
    """Bits of float32 numbers of either sign, their exponents even between two limits."""
    for word in splitmix64(seed):
        field = 127 + low + (word >> 32) % (high - low + 1)
        yield (word >> 63) << 31 | field << 23 | word & 0x7FFFFF
