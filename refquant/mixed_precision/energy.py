r"""Look up what an operation costs in picojoules: arithmetic is cheap, memory is not.

Horowitz measured a 45 nm process at 0.9 V. Two rows of his table explain most of
quantization: an 8-bit addition takes 0.03 pJ, thirty times less than one in float32,
and to fetch 8 of the 64 bits that DRAM hands out takes 160 to 325 pJ, thousands of times more.

Between the measured widths we interpolate as circuits grow: an adder with b, an array
multiplier with :math:`b^2`. His own figures do: 0.2 pJ for 8 bits becomes 3.2 for 32,
where the table has 3.1.
"""

from typing import NamedTuple

from refquant._validate import require_int, require_number

__all__ = ["ADD", "AREA_ADD", "AREA_MULTIPLY", "MEMORY", "MULTIPLY", "MemoryAccess",
           "access_energy", "add_energy", "mac_energy", "multiply_energy"]

#: Picojoules of one addition and of one multiplication, 45 nm, 0.9 V.
ADD = {"int8": 0.03, "int32": 0.1, "float16": 0.4, "float32": 0.9}
MULTIPLY = {"int8": 0.2, "int32": 3.1, "float16": 1.1, "float32": 3.7}
#: Area of the same circuits in square micrometres.
AREA_ADD = {"int8": 36, "int32": 137, "float16": 1360, "float32": 4184}
AREA_MULTIPLY = {"int8": 282, "int32": 3495, "float16": 1640, "float32": 7700}


class MemoryAccess(NamedTuple):
    """Energy of one access of 64 bits, in pJ: the least and the most he states.

    Attributes
    ----------
    least, most : float

    References
    ----------
    Horowitz, 2014, doi:10.1109/ISSCC.2014.6757323, figure 1.1.9.
    """

    least: float
    most: float


#: Per 64 bits. The often copied row "SRAM 5 pJ, DRAM 640 pJ" is per 32 bits: half of this.
MEMORY = {
    "cache 8 KB": MemoryAccess(10, 10),
    "cache 32 KB": MemoryAccess(20, 20),
    "cache 1 MB": MemoryAccess(100, 100),
    "dram": MemoryAccess(1300, 2600),
}


def add_energy(bits: int) -> float:
    r"""Picojoules of one integer addition: :math:`0.03\, b / 8`.

    Parameters
    ----------
    bits : int

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `bits` is below 1.

    Notes
    -----
    At 32 bits this is 0.12, where the table has 0.1.

    References
    ----------
    Horowitz, 2014, doi:10.1109/ISSCC.2014.6757323, figure 1.1.9.

    Examples
    --------
    >>> add_energy(8), add_energy(4)
    (0.03, 0.015)
    """
    return ADD["int8"] * require_int("bits", bits, 1) / 8


def multiply_energy(bits: int, other_bits: int | None = None) -> float:
    r"""Picojoules of one integer multiplication: :math:`0.2\, b b' / 64`.

    Parameters
    ----------
    bits, other_bits : int
        Widths of the two factors; one width means both.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a width is below 1.

    References
    ----------
    Horowitz, 2014, doi:10.1109/ISSCC.2014.6757323, figure 1.1.9.

    Examples
    --------
    >>> multiply_energy(8), multiply_energy(4), multiply_energy(32)
    (0.2, 0.05, 3.2)
    """
    b = require_int("bits", bits, 1)
    other = b if other_bits is None else require_int("other_bits", other_bits, 1)
    return MULTIPLY["int8"] * b * other / 64


def mac_energy(weight_bits: int, activation_bits: int, *, accumulator_bits: int = 32) -> float:
    """Picojoules of one multiplication and the addition of its product.

    Parameters
    ----------
    weight_bits, activation_bits : int
    accumulator_bits : int

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a width is below 1.

    References
    ----------
    Horowitz, 2014, doi:10.1109/ISSCC.2014.6757323, figure 1.1.9.

    Examples
    --------
    >>> round(mac_energy(8, 8), 2), round(ADD["float32"] + MULTIPLY["float32"], 2)
    (0.32, 4.6)
    """
    return multiply_energy(weight_bits, activation_bits) + add_energy(
        require_int("accumulator_bits", accumulator_bits, 1))


def access_energy(bits: float, memory: MemoryAccess) -> float:
    """Picojoules to move this many bits: the middle of what is stated, per bit.

    Parameters
    ----------
    bits : float
        At least 0.
    memory : MemoryAccess
        One of `MEMORY`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `bits` is negative.

    References
    ----------
    Horowitz, 2014, doi:10.1109/ISSCC.2014.6757323, figure 1.1.9.

    Examples
    --------
    >>> access_energy(32, MEMORY["cache 8 KB"]), access_energy(8, MEMORY["dram"])
    (5.0, 243.75)
    """
    require_number("bits", bits)
    if not bits >= 0:
        raise ValueError(f"`bits` must be at least 0; got {bits}")
    return bits * (memory.least + memory.most) / 2 / 64
