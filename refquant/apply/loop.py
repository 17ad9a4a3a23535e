"""A network that runs in a loop: a tap that knows the hour.

A tap sees a name and a value, and the same name comes by at every step of a sampler. The
sampler says the step to a `Watch` before each run; a `Looped` is a tap and a watch that share
it. So quantizers for each step need no change in the network or in the sampler.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

from refquant._types import Array
from refquant.apply.calibrate import Mergeable
from refquant.apply.simulate import static
from refquant.nn.denoiser import Watch
from refquant.nn.network import Tap
from refquant.quantizer import Quantizer

__all__ = ["Looped", "Sampler", "observe_steps", "per_step"]

_S = TypeVar("_S", bound=Mergeable)

#: Runs the loop with a tap and a watch; what it returns is not looked at.
Sampler: TypeAlias = Callable[[Tap, Watch], object]


class Looped(NamedTuple):
    """A tap, and the watch that tells it the step.

    Attributes
    ----------
    tap : callable, (name, value) -> value
    watch : callable, (t, x_t) -> None

    References
    ----------
    Li et al., 2023, arXiv:2302.04304 (activations differ from step to step).
    """

    tap: Tap
    watch: Watch


def observe_steps(
    sampler: Sampler, of: Callable[[Array], _S], *, names: Iterable[str]
) -> dict[str, dict[int, _S]]:
    r"""Statistic of each named value at each step, in one run of the float sampler.

    .. math:: S_{v, t} = \mathrm{of}(v_t)

    Parameters
    ----------
    sampler : callable, (tap, watch) -> anything
        For example ``lambda tap, watch: sample(model, noise, tap=tap, watch=watch)``.
    of : callable, ndarray -> statistic with ``merge``
        For example `Range.of`.
    names : iterable of str
        What to watch, e.g. ``input_names(nodes)``.

    Returns
    -------
    dict of str to dict of int to statistic
        Names in the order given, steps in the order of the run.

    Raises
    ------
    ValueError
        If a name never appears, or a value comes before the first step is announced.

    Notes
    -----
    The inputs are those that the sampler itself makes. Images with noise added would be the
    network's training data, which is not what it sees when it draws.

    References
    ----------
    Li et al., 2023, arXiv:2302.04304 (timestep-aware calibration).

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.calibration.statistics import Range
    >>> def sampler(tap, watch):
    ...     for t in (2, 1):
    ...         watch(t, np.zeros(1))
    ...         tap("y", np.array([float(t)]))
    >>> {t: float(r.high[0]) for t, r in observe_steps(sampler, Range.of, names=["y"])["y"].items()}
    {2: 2.0, 1: 1.0}
    """
    seen: dict[str, dict[int, _S]] = {name: {} for name in names}
    now, watch = _clock()

    def tap(name: str, value: Array) -> Array:
        if name in seen:
            steps, t, statistic = seen[name], now(), of(value)
            steps[t] = steps[t].merge(statistic) if t in steps else statistic
        return value

    sampler(tap, watch)
    missing = [name for name, steps in seen.items() if not steps]
    if missing:
        raise ValueError(f"`names` must occur in the network; got {missing[0]!r}")
    return seen


def per_step(plans: Mapping[int, Mapping[str, Quantizer]]) -> Looped:
    """A tap with a plan of its own for every step.

    Parameters
    ----------
    plans : mapping of int to plan
        A plan for each step that the sampler visits; a plan is a quantizer for each name.

    Returns
    -------
    Looped
        Give both to the sampler. With one and the same plan at all steps it does what
        ``static(plan)`` does.

    Raises
    ------
    ValueError
        By the tap, if the sampler visits a step without a plan, or announces none.

    References
    ----------
    So et al., 2023, arXiv:2306.02316 (activation quantizers that depend on the step).

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.quantizers.uniform import symmetric
    >>> plans = {t: {"y": symmetric(np.array(float(t)), bits=2)} for t in (2, 1)}
    >>> tap, watch = per_step(plans)
    >>> watch(2, np.zeros(1)); tap("y", np.array([0.9, 1.1]))
    array([0., 2.])
    >>> watch(1, np.zeros(1)); tap("y", np.array([0.9, 1.1]))
    array([1., 1.])
    """
    taps = {t: static(plan) for t, plan in plans.items()}
    now, watch = _clock()

    def tap(name: str, value: Array) -> Array:
        t = now()
        if t not in taps:
            raise ValueError(f"`plans` must hold every step of the sampler; got none for {t}")
        return taps[t](name, value)

    return Looped(tap, watch)


def _clock() -> tuple[Callable[[], int], Watch]:
    """The step that was announced last, and the watch that hears of it."""
    heard: list[int] = []

    def watch(t: int, x: Array) -> None:
        heard[:] = [int(t)]

    def now() -> int:
        if not heard:
            raise ValueError("`watch` must be given to the sampler, and called before the tap")
        return heard[0]

    return now, watch
