"""``--jobs N``: what a command gives to joblib runs on so many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["threads"]


@contextmanager
def threads(jobs: int) -> Iterator[None]:
    """So many threads for joblib, with one thread each for BLAS.

    NumPy lets go of the interpreter inside its loops, so threads scale, start at once and share
    what is in memory. The order of a sum in BLAS depends on its own threads; with one of them,
    with one job too, the output is the same for any number of jobs.
    """
    from joblib import parallel_config
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"), parallel_config("threading", n_jobs=jobs):
        yield
