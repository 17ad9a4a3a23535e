"""How much memory a call takes, next to what it must take."""

import tracemalloc

import numpy as np


def peak_over_arrays(function, *arrays):
    """Peak of input, output and all work arrays, as a multiple of input plus output."""
    function(*arrays)                                   # what is allocated once, is
    tracemalloc.start()
    try:
        result = function(*arrays)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    given = sum(array.nbytes for array in arrays)
    returned = np.asarray(result).nbytes if isinstance(result, np.ndarray) else 0
    return (given + peak) / (given + returned)
