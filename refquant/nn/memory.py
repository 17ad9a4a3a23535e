"""Keep freed memory: training allocates the same large arrays again at every step.

The C library of Linux returns a large freed block to the kernel, and every page of
the next one has to be mapped and cleared anew. In a training step of small layers
that can take as long as the arithmetic. One call, once per process, tells the
allocator to keep what it has.
"""

import ctypes

__all__ = ["keep_freed_memory"]

# Options of mallopt, from glibc's malloc.h, and what they are set to.
_OPTIONS = {
    -3: 1 << 30,        # M_MMAP_THRESHOLD: blocks below 1 GiB come from the heap ...
    -1: 2**31 - 1,      # M_TRIM_THRESHOLD: ... which is hardly ever given back ...
    -2: 64 << 20,       # M_TOP_PAD: ... and grows by 64 MiB at a time
}


def keep_freed_memory() -> bool:
    """Whether the allocator now keeps freed memory for the next array.

    Never called by the library itself: a process belongs to its owner. No result
    changes, only the time, and the memory that the process holds on to. The
    variables ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_`` and
    ``MALLOC_TOP_PAD_`` do the same from outside.

    Returns
    -------
    bool
        False where the C library has no such setting (macOS, Windows, musl);
        then nothing has happened.

    References
    ----------
    The GNU C Library manual, section 3.2.3.7, "Malloc Tunable Parameters".

    Examples
    --------
    >>> keep_freed_memory() in (True, False)
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _OPTIONS.items())
