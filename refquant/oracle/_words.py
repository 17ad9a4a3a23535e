"""Random words in integer arithmetic, the same for ever: NumPy's distributions may change."""

from collections.abc import Iterator

_MASK = 2**64 - 1


def splitmix64(seed: int) -> Iterator[int]:
    """Words of 64 bits: SplitMix64 (Steele, Lea and Flood, 2014; constants of Vigna's code)."""
    state = seed & _MASK
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        yield z ^ z >> 31


def floats(seed: int, *, low: int, high: int) -> Iterator[int]:
    """Bits of float32 numbers of either sign, their exponents even between two limits."""
    for word in splitmix64(seed):
        field = 127 + low + (word >> 32) % (high - low + 1)
        yield (word >> 63) << 31 | field << 23 | word & 0x7FFFFF
