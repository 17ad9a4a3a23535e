r"""Training: batch, gradients, optimizer, projection, again; and picking up where it was killed.

All that changes is in one `State`, and all that a step reads besides is a function of the
step's number: the batch, the learning rate, what a method does afterwards. So the state at
step k determines the state at step k + 1, and a run that was killed and resumed from a
checkpoint ends in the same bits as one that was left alone.

==================  ====================================================================
what a method adds  where
==================  ====================================================================
trained quantizers  nodes, put in with `insert_after`; their parameters are parameters
plain STE           `tap`: the backward pass does not see it
noise, temperature  inputs that `batch` returns for the step
a regularizer       `penalty`: a value and gradients of its own
projection          `after`: clip, binarize, move toward a grid
its own pace        `factors` of the learning rate by suffix; `frozen` names
freezing averages   nodes in evaluation form read `statistics` as constants
==================  ====================================================================
"""

import io
import math
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refquant._npy import read_array
from refquant._types import Array
from refquant._validate import as_unmasked, require_int, require_stored, short
from refquant.nn._artifacts import npz_bytes, write_whole
from refquant.nn.network import Node, Tap, backward, run, untouched
from refquant.nn.normalization import updated_statistics
from refquant.nn.optimizers import Schedule, adam, adam_start, sgd, sgd_start

__all__ = ["ADAM", "SGD", "Batch", "Optimizer", "State", "resume", "save", "shuffled", "start",
           "train"]

#: Number of the step -> what the network reads besides parameters and statistics.
Batch: TypeAlias = Callable[[int], Mapping[str, Array]]


class Optimizer(NamedTuple):
    """How a state of its own begins, and what one step does.

    Attributes
    ----------
    start : callable, parameters -> state
        A named tuple of whole numbers and dicts of arrays.
    step : callable, (parameters, gradients, state, rate) -> (parameters, state)
        The rate is a keyword.
        Settings go in with ``ADAM._replace(step=partial(adam, weight_decay=0.05))``.

    References
    ----------
    Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1.
    """

    start: Callable[..., Any]
    step: Callable[..., Any]


#: Adam with its usual decays.
ADAM = Optimizer(adam_start, adam)

#: Gradient descent with momentum 0.9.
SGD = Optimizer(sgd_start, sgd)


class State(NamedTuple):
    """All that a training step changes.

    Attributes
    ----------
    step : int
        Steps taken so far.
    parameters : dict of str to ndarray
    statistics : dict of str to ndarray
        Running means and variances.
    optimizer : named tuple
        What the optimizer remembers.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-G (the loop of QAT).
    """

    step: int
    parameters: dict[str, Array]
    statistics: dict[str, Array]
    optimizer: Any


def start(
    parameters: Mapping[str, Array],
    statistics: Mapping[str, Array],
    optimizer: Optimizer = ADAM,
) -> State:
    """The state before the first step.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    statistics : mapping of str to ndarray
        ``{}`` for a network without batch norm.
    optimizer : Optimizer
        The one that `train` will be given.

    Returns
    -------
    State

    References
    ----------
    Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1 (initialization).

    Examples
    --------
    >>> start({"w": np.ones(2)}, {}).step
    0
    """
    # Sorted as a checkpoint is, so that a loop over the names runs alike after `resume`.
    in_order = {k: as_unmasked(k, v) for k, v in sorted(parameters.items())}
    return State(0, in_order, dict(sorted(statistics.items())), optimizer.start(in_order))


def shuffled(
    arrays: Mapping[str, Array],
    size: int,
    *,
    rng: np.random.Generator,
    augment: Callable[[dict[str, Array], np.random.Generator], dict[str, Array]] | None = None,
) -> Batch:
    """Batches in a new random order in each epoch, any of which can be had by its number.

    A generator that is drawn from batch after batch would have to be saved with the state.
    Here the order of epoch e comes from a generator seeded with e, so nothing is hidden.

    Parameters
    ----------
    arrays : mapping of str to ndarray, all of one length n
        For example ``{"x": split.x_train, "labels": split.y_train}``.
    size : int
        Examples in a batch, at most n; the rest of an epoch is dropped.
    rng : numpy.random.Generator
        Four integers are drawn, once; they seed all epochs.
    augment : callable, (inputs, rng) -> inputs, optional
        What happens to a batch, with a generator of the step's own.

    Returns
    -------
    callable, int -> dict of str to ndarray

    Raises
    ------
    ValueError
        If there is no array, lengths differ, or `size` is not in [1, n].

    References
    ----------
    Bottou, 2012, "Stochastic gradient descent tricks", section 3 (shuffling).

    Examples
    --------
    >>> batch = shuffled({"x": np.arange(5)}, 2, rng=np.random.default_rng(0))
    >>> [batch(step)["x"].tolist() for step in (0, 1, 2, 0)]
    [[3, 1], [2, 0], [0, 3], [3, 1]]
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len({*lengths.values()}) != 1:
        raise ValueError(f"`arrays` must be of one length; got {lengths}")
    n = next(iter(lengths.values()))
    require_int("size", size, 1, n)
    seed = [int(part) for part in rng.integers(0, 2**32, 4)]

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Array:
        return np.random.default_rng([*seed, 0, epoch]).permutation(n)

    def batch(step: int) -> dict[str, Array]:
        epoch, place = divmod(step, n // size)
        index = order(epoch)[place * size :][:size]
        inputs = {name: array[index] for name, array in arrays.items()}
        return augment(inputs, np.random.default_rng([*seed, 1, step])) if augment else inputs

    return batch


def train(
    nodes: Sequence[Node],
    state: State,
    batch: Batch,
    *,
    steps: int,
    rate: Schedule,
    optimizer: Optimizer = ADAM,
    tap: Tap = untouched,
    factors: Mapping[str, float] | Callable[[str], float] | None = None,
    frozen: Collection[str] = (),
    penalty: Callable[[dict[str, Array], int], tuple[Any, Mapping[str, Array]]] | None = None,
    after: Callable[[dict[str, Array], int], Mapping[str, Array]] | None = None,
    momentum: float = 0.1,
    checkpoint: Path | None = None,
    every: int = 100,
    progress: Callable[[int, float], None] | None = None,
) -> State:
    r"""The state when `steps` steps have been taken in all.

    .. math:: \theta_{k+1} = \mathrm{after}\bigl(\mathrm{step}(\theta_k,\;
              \nabla (L_k + \Omega_k)(\theta_k)), k\bigr)

    Parameters
    ----------
    nodes : sequence of Node
        In training form; one of them is ``loss``. They read the batch, parameters and
        statistics.
    state : State
        Of `start` or `resume`.
    batch : callable, int -> mapping of str to ndarray
        A function of the step alone, for example of `shuffled`.
    steps : int
        Number of the last step: a resumed run is given the same as the first one.
    rate : callable, int -> float
        Learning rate of each step, for example ``cosine(1e-3, steps)``.
    optimizer : Optimizer
        The one that `state` was started with.
    tap : callable, (name, value) -> value
        As in `refquant.nn.network.run`. One that draws must do so by the step: give the noise
        as an input instead.
    factors : mapping of str to float, or callable of str to float, optional
        Of the rate: ``{".scale": 0.1}`` by the end of the name (the longest that fits), or any
        function of the name.
    frozen : collection of str
        Parameters that stay as they are.
    penalty : callable, (parameters, step) -> (value, gradients), optional
        :math:`\Omega`, added to the loss; gradients of the names that it has an opinion on.
    after : callable, (parameters, step) -> parameters, optional
        Parameters to go on with; names, shapes and dtypes must stay. Called with the number of
        the step that was just taken, from 0.
    momentum : float
        Of the running statistics: the weight of the new batch.
    checkpoint : Path, optional
        A file that is replaced by the state of every `every`-th step and of the last.
    every : int
    progress : callable, (step, loss) -> None, optional
        Hears of each step taken, from 1, and the loss (with the penalty) before it.

    Returns
    -------
    State

    Raises
    ------
    ValueError
        If the loss of a step is not finite, or a number of the state that is to be saved or
        returned: the message says which step, and that the last checkpoint stays. If a name in
        `factors`, `frozen` or of `penalty` fits no parameter, `after` changes names, shapes or
        dtypes, or `state` was started with another optimizer.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-G and figure 5 (QAT); Ioffe and
    Szegedy, 2015, arXiv:1502.03167, algorithm 2.

    Examples
    --------
    >>> half_square = lambda w: (np.array((w * w).sum() / 2), lambda g: (g * w,))
    >>> nodes = [Node("loss", half_square, ("w",))]
    >>> state = start({"w": np.array([1.0, -2.0])}, {}, SGD)
    >>> train(nodes, state, lambda step: {}, steps=99, rate=lambda step: 0.1,
    ...       optimizer=SGD).parameters["w"].round(1)
    array([ 0., -0.])
    """
    require_int("steps", steps, state.step)
    require_int("every", every, 1)
    _require_known("frozen", frozen, {*state.parameters})
    started, own = (type(s).__name__ for s in (state.optimizer, optimizer.start({})))
    if started != own:
        raise ValueError(f"`optimizer` must be the one of `state`; got {own} for {started}")
    factor = _factor(factors, state.parameters)
    kept = f"the last checkpoint, {checkpoint}, stays" if checkpoint else "nothing was saved"

    def one(state: State) -> tuple[State, float]:
        """The next state, and the loss before it. What a step leaves behind goes with it."""
        step, before = state.step, state.parameters
        trace = run(nodes, {**batch(step), **before, **state.statistics}, tap=tap)
        found = backward(trace, {"loss": 1.0})
        gradients = {k: g for k, g in found.items() if k in before and k not in frozen}
        loss = float(trace.values["loss"])
        if penalty is not None:
            value, more = penalty(before, step)
            _require_known("penalty", more, before)
            loss += float(value)
            gradients |= {k: gradients[k] + g if k in gradients else g
                          for k, g in more.items() if k not in frozen}
        if not math.isfinite(loss):
            raise ValueError(f"`loss` must stay finite; got {loss} at step {step}: {kept}")
        eta = float(rate(step))
        parameters, memory = optimizer.step(
            before, gradients, state.optimizer, rate=lambda name: eta * factor(name))
        if after is not None:
            parameters = _like(dict(after(parameters, step)), before)
        statistics = updated_statistics(trace, state.statistics, momentum=momentum)
        return State(step + 1, parameters, statistics, memory), loss

    while state.step < steps:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):   # judged by `one`
            state, loss = one(state)
        if state.step == steps or (checkpoint is not None and state.step % every == 0):
            _require_finite(state, kept)
            if checkpoint is not None:
                save(state, checkpoint)
        if progress is not None:
            progress(state.step, loss)
    return state


def save(state: State, path: Path) -> None:
    """Write a checkpoint; a file that was there is replaced when the new one is whole.

    Parameters
    ----------
    state : State
    path : Path
        Folders above it are made.

    References
    ----------
    PKWARE, "APPNOTE.TXT", section 4.3.7: each array has a checksum in its header.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "state.npz"
    >>> save(start({"w": np.ones(2)}, {}), path)
    >>> resume(path).parameters["w"]
    array([1., 1.])
    """
    arrays: dict[str, Array] = {"step": np.array(state.step)}
    for part in ("parameters", "statistics"):
        arrays |= {f"{part}/{k}": v for k, v in getattr(state, part).items()}
    for field, value in state.optimizer._asdict().items():
        if isinstance(value, Mapping):
            arrays |= {f"optimizer.{field}/{k}": v for k, v in value.items()}
        else:
            arrays[f"optimizer.{field}"] = np.array(value)
    write_whole(Path(path), npz_bytes(arrays))


def resume(path: Path, optimizer: Optimizer = ADAM) -> State:
    """The state in a checkpoint, to the bit.

    Parameters
    ----------
    path : Path
        Of `save`, or of `train`.
    optimizer : Optimizer
        The one that the state was started with.

    Returns
    -------
    State

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If the file was cut short or changed, or is of another optimizer. It is left alone.

    References
    ----------
    PKWARE, "APPNOTE.TXT", section 4.3.7: each array has a checksum in its header.

    Examples
    --------
    >>> resume(Path("no.npz"))
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'no.npz'
    """
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                require_stored(archive, Path(path).stat().st_size)
                arrays = {m.filename.removesuffix(".npy"): read_array(
                    m.filename, io.BytesIO(archive.read(m)), m.file_size)
                    for m in archive.infolist()}
            step = _count("step", arrays)
        except Exception as err:    # zipfile, NumPy and decompressors know a dozen kinds
            reason = short(err) or type(err).__name__
            raise ValueError(f"`path` must be a whole checkpoint; got {path} ({reason})") from None
    blank = optimizer.start({})
    saved = {n.split("/")[0][10:] for n in arrays if n.startswith("optimizer.")}
    whole = {f for f, v in blank._asdict().items() if not isinstance(v, Mapping)}
    if not whole <= saved <= {*blank._fields}:
        raise ValueError(f"`optimizer` must be the one of {path}; got {type(blank).__name__}, "
                         f"but the file has {sorted(saved)}")
    parameters = _under("parameters", arrays)
    for field, value in optimizer.start(parameters)._asdict().items():
        for name, like in () if field in whole else value.items():
            found = arrays.get(f"optimizer.{field}/{name}")
            if found is None or found.shape != like.shape:
                raise ValueError(f"`path` must be a whole checkpoint; got {path} (no "
                                 f"'optimizer.{field}/{name}' of shape {like.shape})")
    memory = {f: _count(f"optimizer.{f}", arrays) if f in whole else
              _under(f"optimizer.{f}", arrays) for f in blank._fields}
    return State(step, parameters, _under("statistics", arrays), type(blank)(**memory))


def _count(name: str, arrays: Mapping[str, Array]) -> int:
    """A whole number of a checkpoint."""
    array = arrays[name]
    if array.shape or array.dtype.kind not in "iu" or array < 0:
        raise ValueError(f"`{name}` must be a whole number; got {array.dtype} "
                         f"of shape {array.shape}")
    return int(array)


def _under(part: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays of one part of a checkpoint, by the rest of their names."""
    return {k.removeprefix(f"{part}/"): v for k, v in arrays.items() if k.startswith(f"{part}/")}


def _factor(
    factors: Mapping[str, float] | Callable[[str], float] | None, parameters: Collection[str]
) -> Callable[[str], float]:
    """Factor of the rate of each parameter."""
    if callable(factors):
        return factors
    table = dict(factors or {})
    for suffix in table:
        if not any(name.endswith(suffix) for name in parameters):
            raise ValueError(f"`factors` must fit parameters; got {suffix!r}, the end of none")
    longest = sorted(table, key=len, reverse=True)
    found = {n: next((float(table[s]) for s in longest if n.endswith(s)), 1.0) for n in parameters}
    return found.__getitem__


def _require_known(name: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise unless all names given are known."""
    unknown = [one for one in given if one not in known]
    if unknown:
        raise ValueError(f"`{name}` must name parameters; got {unknown[0]!r}")


def _like(new: dict[str, Array], old: Mapping[str, Array]) -> dict[str, Array]:
    """`new`, whose names, shapes and dtypes are those of `old`."""
    if new.keys() != old.keys():
        raise ValueError(f"`after` must keep the names; got {sorted(new.keys() ^ old.keys())} "
                         "on one side only")
    for name, array in new.items():
        was, now = (f"{a.dtype} of shape {a.shape}" for a in (old[name], array))
        if was != now:
            raise ValueError(f"`after` must keep {name!r} {was}; got {now}")
    return {name: new[name] for name in old}


def _require_finite(state: State, kept: str) -> None:
    """Raise if a number of `state` is not finite: such a state is never saved.

    Averages and the optimizer too: a network whose running variance is infinite, or a weight
    whose second moment is, goes on with a finite loss and has learned its last.
    """
    remembered = {k: v for k, v in state.optimizer._asdict().items() if isinstance(v, Mapping)}
    parts = {"parameters": state.parameters, "statistics": state.statistics, **remembered}
    for part, values in parts.items():
        for name, value in values.items():
            wrong = ~np.isfinite(value)
            if wrong.any():
                raise ValueError(f"`{part}` must stay finite; got {value[wrong][0]} in {name!r} "
                                 f"after step {state.step - 1}: {kept}")
