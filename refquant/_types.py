"""Names for what the annotations mean."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

#: Values (float32 or float64) or codes (int32): the docstring says which, and the shape.
Array: TypeAlias = npt.NDArray[Any]

#: Codes are int32 in memory whatever their width: ``uint8(3) - uint8(5)`` is 254.
Codes: TypeAlias = npt.NDArray[np.int32]

#: The axes a reduction runs over, as in NumPy; they are kept with size 1.
Axis: TypeAlias = int | tuple[int, ...] | None

#: Real numbers to whole numbers, shape and dtype kept.
Rounding: TypeAlias = Callable[[Array], Array]
