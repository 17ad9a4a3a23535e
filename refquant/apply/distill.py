"""Two networks in one: a teacher beside its student, and what the student is asked.

The teacher's names get a prefix, so that both networks, their parameters and their running
statistics are one network for `train`, `run` and a checkpoint. A fixed teacher needs no nodes at
all: its logits can be computed once and handed in with each batch, under the same name.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from refquant._types import Array
from refquant.apply.train import Batch, State, start, train
from refquant.nn.models import Model, with_loss
from refquant.nn.network import Node, Op
from refquant.nn.optimizers import Schedule
from refquant.qat.distillation import co_study, hinton

__all__ = ["TEACHER", "beside", "enrolled", "named", "qkd", "taught"]

_T = TypeVar("_T")

#: What the names of a teacher begin with.
TEACHER = "teacher."


def named(values: Mapping[str, _T], prefix: str = TEACHER) -> dict[str, _T]:
    """The same values under the teacher's names.

    Parameters
    ----------
    values : mapping of str to anything
        Parameters, statistics, logits.
    prefix : str

    Returns
    -------
    dict of str

    References
    ----------
    Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 2.

    Examples
    --------
    >>> named({"logits": 1})
    {'teacher.logits': 1}
    """
    return {prefix + name: value for name, value in values.items()}


def beside(student: Sequence[Node], teacher: Sequence[Node]) -> list[Node]:
    """One network of both; they share ``x`` and nothing else.

    Parameters
    ----------
    student, teacher : sequence of Node
        From ``x`` to ``logits``, in whatever form each is to run.

    Returns
    -------
    list of Node
        The student's, then the teacher's under names that begin with `TEACHER`.

    References
    ----------
    Kim et al., 2019, arXiv:1911.12491, figure 1.

    Examples
    --------
    >>> from refquant.nn.operations import linear
    >>> net = [Node("logits", linear, ("x", "w"))]
    >>> [(n.name, *n.inputs) for n in beside(net, net)]
    [('logits', 'x', 'w'), ('teacher.logits', 'x', 'teacher.w')]
    """
    def own(name: str) -> str:
        return name if name == "x" else TEACHER + name

    return [*student, *(Node(own(n.name), n.op, tuple(map(own, n.inputs))) for n in teacher)]


def taught(nodes: Sequence[Node], loss: Op) -> list[Node]:
    """The network, and after it a ``loss`` of logits, labels and the teacher's logits.

    Parameters
    ----------
    nodes : sequence of Node
        Of `beside`; or of the student alone, if ``teacher.logits`` comes with the batch.
    loss : callable, (logits, labels, teacher's logits) -> (value, pullback)
        For example ``partial(hinton, temperature=4.0)``.

    Returns
    -------
    list of Node

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, eq. (7).

    Examples
    --------
    >>> taught([], hinton)[-1].inputs
    ('logits', 'labels', 'teacher.logits')
    """
    return [*nodes, Node("loss", loss, ("logits", "labels", f"{TEACHER}logits"))]


def enrolled(
    parameters: Mapping[str, Array], statistics: Mapping[str, Array], teacher: Model
) -> State:
    """The state before the first step of a student and a teacher that may move too.

    Parameters
    ----------
    parameters, statistics : mapping of str to ndarray
        Of the student.
    teacher : Model

    Returns
    -------
    State
        For Adam.

    References
    ----------
    Kim et al., 2019, arXiv:1911.12491, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> sorted(enrolled({"w": np.ones(1)}, {}, Model([], {"w": np.ones(1)}, {})).parameters)
    ['teacher.w', 'w']
    """
    return start({**parameters, **named(teacher.parameters)},
                 {**statistics, **named(teacher.statistics)})


def qkd(
    student: Sequence[Node],
    teacher: Sequence[Node],
    fixed: Sequence[Node],
    state: State,
    batch: Batch,
    *,
    ends: tuple[int, int, int],
    rate: Schedule,
    temperature: float = 2.0,
    pace: float = 0.1,
    loop: Callable[..., State] = train,
) -> State:
    """The state after QKD's three phases: self-study, co-studying, tutoring.

    =============  ==========================================  ================================
    phase          student                                     teacher
    =============  ==========================================  ================================
    self-study     labels                                      does not run
    co-studying    labels, and the teacher's answers           labels, and the student's answers
    tutoring       labels, and the teacher's answers           fixed
    =============  ==========================================  ================================

    Parameters
    ----------
    student : sequence of Node
        In training form, with trained quantizers, to ``logits``.
    teacher : sequence of Node
        In training form, to ``logits``.
    fixed : sequence of Node
        The teacher in evaluation form.
    state : State
        Of `enrolled`.
    batch : callable, int -> mapping of str to ndarray
    ends : tuple of int
        Steps taken in all at the end of each phase; a phase may be empty, and a state that was
        resumed in any of them goes on from there.
    rate : callable, int -> float
    temperature : float
        T > 0.
    pace : float
        Of the teacher: factor of its rate.
    loop : callable
        `train`, or a `functools.partial` of it with settings such as ``checkpoint``.

    Returns
    -------
    State

    Raises
    ------
    ValueError
        If `ends` falls, or as `train`.

    Notes
    -----
    The paper trains intervals (a cousin of QIL); here the student's quantizers are whatever
    stands in its nodes.

    References
    ----------
    Kim et al., 2019, arXiv:1911.12491, section 3 and algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.nn.operations import linear
    >>> net, x = [Node("logits", linear, ("x", "w"))], np.eye(2)
    >>> state = enrolled({"w": 0 * x}, {}, Model(net, {"w": x}, {}))
    >>> end = qkd(net, net, net, state, lambda step: {"x": x, "labels": np.arange(2)},
    ...           ends=(2, 4, 6), rate=lambda step: 0.1)
    >>> end.step, bool(end.parameters["w"][0, 0] > 0.4 > end.parameters["w"][0, 1])
    (6, True)
    """
    if list(ends) != sorted(ends):
        raise ValueError(f"`ends` must not fall; got {ends}")
    both = partial(co_study, temperature=temperature)
    alone = partial(hinton, alpha=1.0, beta=1.0, temperature=temperature)
    phases = [
        with_loss(student),
        taught(beside(student, teacher), both),
        taught(beside(student, fixed), alone),
    ]
    for nodes, end in zip(phases, ends, strict=True):
        state = loop(nodes, state, batch, steps=max(end, state.step), rate=rate,
                     factors=lambda name: pace if name.startswith(TEACHER) else 1.0)
    return state
