r"""Distillation: a coarse network learns from the answers of a fine one, not from labels alone.

A label says "3". A trained network says "3, and if not, rather an 8 than a 1"; softened by a
temperature, such answers carry more per image than labels do.

=====================  ====================================================================
loss                   what is compared
=====================  ====================================================================
`soft_cross_entropy`   softened answers
`divergence`           the same, less the teacher's own entropy: 0 where they agree
`hinton`               labels and softened answers, weighed: the survey's eq. (7)
`hint`                 a hidden layer of each, through a linear map (FitNets)
`attention_transfer`   *where* a hidden layer is active, channels summed
`apprentice`           labels for both networks, and the teacher's answers for the student
`co_study`             each learns from the labels and from the other (QKD's second phase)
=====================  ====================================================================

Every loss is an operation of two logits or two layers: it returns a value, the mean over the
batch, and a pullback with one gradient per array. A teacher gets a gradient only from the
labels' part of its own loss, or from the student's answers taken as constants.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_codes,
    require_nonempty,
    require_number,
    require_positive,
    require_same_shape,
)

__all__ = [
    "apprentice",
    "attention_transfer",
    "co_study",
    "divergence",
    "hint",
    "hinton",
    "soft_cross_entropy",
]

#: Gradient of the loss -> one gradient per array, None for one that gets none.
LossPullback: TypeAlias = Callable[[Array], tuple[Any, ...]]


def soft_cross_entropy(
    student: Array, teacher: Array, *, temperature: float = 4.0, squared: bool = True
) -> tuple[Array, LossPullback]:
    r"""Surprise of the student at the teacher's softened answers, in nats.

    .. math:: T^2 H(p, q) = -\frac{T^2}{n} \sum_{i,k} p_{ik} \log q_{ik}, \qquad
              p = \sigma(z_t / T), \quad q = \sigma(z_s / T), \qquad
              \frac{\partial}{\partial z_s} = \frac{T (q - p)}{n}

    Parameters
    ----------
    student, teacher : ndarray of float, shape (n, classes)
        Logits :math:`z_s, z_t`.
    temperature : float
        T > 0. The larger, the more the wrong answers count.
    squared : bool
        Whether to multiply by T squared. The gradient shrinks as 1/T**2 when T grows; the
        factor keeps it, so that T can be changed without changing the weight of the loss.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradient of `student`; None for `teacher`.

    Raises
    ------
    ValueError
        If the shapes differ, there is no row, or `temperature` is not positive.

    References
    ----------
    Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 2 and eq. (2); Gholami et al.,
    2021, arXiv:2103.13630, eq. (7), which has no T squared.

    Examples
    --------
    >>> z_s, z_t = np.array([[1, -0.5, 0.3]]), np.array([[0.2, 0.9, -1]])
    >>> loss, pullback = soft_cross_entropy(z_s, z_t, squared=False)
    >>> round(float(loss), 6), pullback(np.array(1.0))[0].round(6)
    (1.123504, array([[ 0.013677, -0.033569,  0.019892]]))
    """
    student, teacher = _logits(student, teacher)
    log_q, log_p, weight, back = _softened(student, teacher, temperature, squared)
    return np.asarray(_mean(-(np.exp(log_p) * log_q).sum(1)) * weight), lambda g: (back(g), None)


def divergence(
    student: Array, teacher: Array, *, temperature: float = 4.0, squared: bool = True
) -> tuple[Array, LossPullback]:
    r"""Kullback-Leibler divergence of softened answers: never negative, 0 where they agree.

    .. math:: T^2 D(p \Vert q) = T^2 \bigl(H(p, q) - H(p, p)\bigr)

    The teacher's entropy :math:`H(p, p)` does not depend on the student, so the gradient is
    that of `soft_cross_entropy`; the value is one that can be judged.

    Parameters
    ----------
    student, teacher : ndarray of float, shape (n, classes)
        Logits.
    temperature : float
        T > 0.
    squared : bool
        Whether to multiply by T squared.

    Returns
    -------
    value : ndarray, shape ()
        The sum over classes, the mean over the batch. PyTorch's ``KLDivLoss`` divides by the
        number of classes too, unless it is told ``reduction="batchmean"``.
    pullback : callable
        Gradient of `student`; None for `teacher`.

    Raises
    ------
    ValueError
        As `soft_cross_entropy`.

    References
    ----------
    Kullback and Leibler, 1951, Ann. Math. Statist. 22(1), eq. (2.4); Kim et al., 2019,
    arXiv:1911.12491 (QKD), section 3.

    Examples
    --------
    >>> z = np.array([[1.0, 2.0]])
    >>> float(divergence(z, z)[0]), float(divergence(z, z[:, ::-1])[0].round(4))
    (0.0, 0.4974)
    """
    student, teacher = _logits(student, teacher)
    log_q, log_p, weight, back = _softened(student, teacher, temperature, squared)
    # Term by term: the difference of two sums would lose the digits in which they agree.
    each = (np.exp(log_p) * (log_p - log_q)).sum(1)
    return np.asarray(_mean(each) * weight), lambda g: (back(g), None)


def hinton(
    student: Array,
    labels: Array,
    teacher: Array,
    *,
    alpha: float = 0.1,
    beta: float = 0.9,
    temperature: float = 4.0,
    squared: bool = True,
) -> tuple[Array, LossPullback]:
    r"""Labels and the teacher's softened answers, weighed.

    .. math:: L = \alpha\, H(y, \sigma(z_s))
              + \beta\, T^2\, H\bigl(\sigma(z_t / T), \sigma(z_s / T)\bigr)

    Parameters
    ----------
    student : ndarray of float, shape (n, classes)
        Logits.
    labels : ndarray of int, shape (n,)
        In ``[0, classes)``.
    teacher : ndarray of float, shape (n, classes)
        Logits.
    alpha, beta : float
        Weights of the two parts; they often add up to 1.
    temperature : float
        T > 0.
    squared : bool
        False leaves :math:`T^2` out, which is the survey's equation to the letter.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradient of `student`; None for `labels` and `teacher`.

    Raises
    ------
    ValueError
        If shapes differ, a label is out of range, or `temperature` is not positive.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, eq. (7); Hinton, Vinyals and Dean, 2015,
    arXiv:1503.02531, section 2 (for the factor).

    Examples
    --------
    >>> z, y = np.array([[0.0, 0.0]]), np.array([1])
    >>> loss, pullback = hinton(z, y, z, alpha=1.0, beta=0.0)
    >>> round(float(loss), 4), pullback(np.array(1.0))[0]
    (0.6931, array([[ 0.5, -0.5]]))
    """
    hard, back_hard = _label_loss(student, labels)
    soft, back_soft = soft_cross_entropy(
        student, teacher, temperature=temperature, squared=squared)
    a, b = (hard.dtype.type(_weight(n, w)) for n, w in (("alpha", alpha), ("beta", beta)))

    def pullback(g: Array) -> tuple[Any, ...]:
        return back_hard(a * g) + back_soft(b * g)[0], None, None

    return np.asarray(a * hard + b * soft), pullback


def hint(student: Array, teacher: Array, regressor: Array) -> tuple[Array, LossPullback]:
    r"""Squared distance of a hidden layer from the teacher's, through a trained linear map.

    .. math:: L = \frac{1}{2n} \sum_i \lVert h_s R^T - h_t \rVert^2

    Parameters
    ----------
    student : ndarray of float, shape (n, ..., student_channels)
    teacher : ndarray of float, shape (n, ..., teacher_channels)
        All axes but the last as in `student`.
    regressor : ndarray of float, shape (teacher_channels, student_channels)
        R: a 1x1 convolution, trained with the student and thrown away afterwards. A student of
        the teacher's own architecture needs none: pass the identity, and freeze it.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradients of `student` and `regressor`; None for `teacher`.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Romero et al., 2015, arXiv:1412.6550 (FitNets), eq. (3).

    Examples
    --------
    >>> h = np.array([[1.0, 2.0]])
    >>> loss, pullback = hint(h, np.array([[0.0]]), np.array([[1.0, 1.0]]))
    >>> float(loss), pullback(np.array(1.0))[0]
    (4.5, array([[3., 3.]]))
    """
    student, teacher, regressor = (as_reals(n, x) for n, x in (
        ("student", student), ("teacher", teacher), ("regressor", regressor)))
    require_nonempty("student", student)
    if not (student.ndim and teacher.ndim):
        raise ValueError(f"`student` and `teacher` must have channels; got shapes "
                         f"{student.shape} and {teacher.shape}")
    require_same_shape("regressor", regressor, (teacher.shape[-1], student.shape[-1]))
    require_same_shape("teacher", teacher, (*student.shape[:-1], len(regressor)))
    rows = student.reshape(-1, student.shape[-1])
    error = rows @ regressor.T - teacher.reshape(-1, len(regressor))
    n = len(student)

    def pullback(g: Array) -> tuple[Any, ...]:
        d = error * (g / n)
        return (d @ regressor).reshape(student.shape), None, d.T @ rows

    return np.asarray((error * error).sum() / (2 * n), student.dtype), pullback


def attention_transfer(
    student: Array, teacher: Array, *, beta: float, power: int = 2
) -> tuple[Array, LossPullback]:
    r"""How far the student looks elsewhere than the teacher does.

    A map says how active a layer is at each place, all channels together; maps are compared as
    directions, so neither the number of channels nor their scale matters.

    .. math:: L = \frac{\beta}{2n} \sum_i \lVert u_s - u_t \rVert^2, \qquad
              u = \frac{Q}{\lVert Q \rVert}, \quad Q_x = \sum_c |A_{xc}|^p

    Parameters
    ----------
    student, teacher : ndarray of float, shape (n, height, width, channels)
        A; numbers of channels may differ.
    beta : float
        The authors take 1000 over the number of places (and of images).
    power : int
        p, at least 1.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradient of `student`; None for `teacher`. An image whose map is 0 gets none.

    Raises
    ------
    ValueError
        If the places differ, or `power` is below 1.

    References
    ----------
    Zagoruyko and Komodakis, 2017, arXiv:1612.03928, section 3.1 and eq. (2).

    Examples
    --------
    >>> a = np.array([3.0, 0, 0, 0]).reshape(1, 2, 2, 1)
    >>> float(attention_transfer(a, 7 * a, beta=1.0)[0])
    0.0
    >>> float(attention_transfer(a, a[:, ::-1], beta=1.0)[0])
    1.0
    """
    student, teacher = as_reals("student", student), as_reals("teacher", teacher)
    require_nonempty("student", student)
    require_same_shape("teacher", teacher, (*student.shape[:-1], *teacher.shape[-1:]))
    if power < 1:
        raise ValueError(f"`power` must be at least 1; got {power}")
    n, weight = len(student), student.dtype.type(_weight("beta", beta))
    u, inverse = _direction(student, power)
    off = u - _direction(teacher, power)[0]

    def pullback(g: Array) -> tuple[Any, ...]:
        d = off * (g * weight / n)
        along = (u * d).sum(1, keepdims=True)               # the norm is divided out
        d_map = ((d - u * along) * inverse).reshape(*student.shape[:-1], 1)
        return power * np.sign(student) * np.abs(student) ** (power - 1) * d_map, None

    return np.asarray(weight * (off * off).sum() / (2 * n), student.dtype), pullback


def apprentice(
    student: Array,
    labels: Array,
    teacher: Array,
    *,
    alpha: float = 1.0,
    beta: float = 0.5,
    gamma: float = 0.5,
) -> tuple[Array, LossPullback]:
    r"""Labels for both networks, and the teacher's answers for the student.

    .. math:: L = \alpha H(y, p_T) + \beta H(y, p_A) + \gamma H(p_T, p_A)

    ======  =================================================  ============================
    scheme  teacher                                            student
    ======  =================================================  ============================
    A       trained beside it, from the start                  from the start
    B       trained before, fixed                              from the start
    C       trained before, fixed                              from its own float weights
    ======  =================================================  ============================

    Parameters
    ----------
    student : ndarray of float, shape (n, classes)
        Logits of the apprentice A.
    labels : ndarray of int, shape (n,)
    teacher : ndarray of float, shape (n, classes)
        Logits of T.
    alpha, beta, gamma : float
        Weights. In schemes B and C the first part has no one to teach.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradients of `student` and `teacher`; None for `labels`. The third part is a lesson for
        the student: it does not move the teacher.

    Raises
    ------
    ValueError
        If shapes differ or a label is out of range.

    Notes
    -----
    The paper writes the teacher's logits where its answers are meant: a cross entropy is of
    probabilities.

    References
    ----------
    Mishra and Marr, 2018, arXiv:1711.05852, eq. (1) and section 4.

    Examples
    --------
    >>> z = np.array([[0.0, 0.0]])
    >>> loss, pullback = apprentice(z, np.array([0]), z)
    >>> [g.tolist() for g in pullback(np.array(1.0)) if g is not None]
    [[[-0.25, 0.25]], [[-0.5, 0.5]]]
    """
    own, back_own = _label_loss(teacher, labels)
    lesson, back_lesson = hinton(student, labels, teacher, alpha=beta, beta=gamma, temperature=1.0)
    a = own.dtype.type(_weight("alpha", alpha))

    def pullback(g: Array) -> tuple[Any, ...]:
        return back_lesson(g)[0], None, back_own(a * g)

    return np.asarray(a * own + lesson), pullback


def co_study(
    student: Array, labels: Array, teacher: Array, *, temperature: float = 2.0
) -> tuple[Array, LossPullback]:
    r"""Both learn from the labels and from each other's answers, taken as constants.

    .. math:: L = L_S + L_T, \qquad
              L_S = H(y, \sigma(z_s)) + T^2 D(p_t \Vert p_s), \qquad
              L_T = H(y, \sigma(z_t)) + T^2 D(p_s \Vert p_t)

    The teacher bends towards answers that the student can give. QKD has three phases: the
    student alone on the labels (self-study), this (co-studying), and the student on
    :math:`L_S` with the teacher fixed (tutoring: `hinton` with both weights 1).

    Parameters
    ----------
    student : ndarray of float, shape (n, classes)
        Logits.
    labels : ndarray of int, shape (n,)
    teacher : ndarray of float, shape (n, classes)
        Logits.
    temperature : float
        T > 0.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradient of :math:`L_S` for `student`, of :math:`L_T` for `teacher`; None for `labels`.

    Raises
    ------
    ValueError
        As `hinton`.

    References
    ----------
    Kim et al., 2019, arXiv:1911.12491, section 3 (QKD).

    Examples
    --------
    >>> a, b, y = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), np.array([0])
    >>> _, pullback = co_study(a, y, b)
    >>> [g.round(2).tolist() for g in pullback(np.array(1.0)) if g is not None]
    [[[0.22, -0.22]], [[-1.22, 1.22]]]
    """
    parts = [
        (_label_loss(own, labels), divergence(own, other, temperature=temperature))
        for own, other in ((student, teacher), (teacher, student))
    ]

    def pullback(g: Array) -> tuple[Any, ...]:
        s, t = (hard[1](g) + soft[1](g)[0] for hard, soft in parts)
        return s, None, t

    return np.asarray(sum(hard[0] + soft[0] for hard, soft in parts)), pullback


def _logits(student: Array, teacher: Array) -> tuple[Array, Array]:
    """Both as reals of one shape (n, classes) with a row."""
    student, teacher = as_reals("student", student), as_reals("teacher", teacher)
    if student.ndim != 2 or not student.size:
        raise ValueError(f"`student` must have shape (n, classes), n >= 1; got {student.shape}")
    require_same_shape("teacher", teacher, student.shape)
    return student, teacher.astype(student.dtype, copy=False)


def _softened(
    student: Array, teacher: Array, temperature: float, squared: bool
) -> tuple[Array, Array, Array, Callable[[Array], Array]]:
    """Logarithms of both softened answers, the weight of the loss, and the student's gradient."""
    require_number("temperature", temperature)
    require_positive("temperature", np.asarray(temperature))
    t = np.asarray(temperature, student.dtype)
    log_q, log_p = _log_softmax(student / t), _log_softmax(teacher / t)
    weight = np.asarray(t * t if squared else 1, student.dtype)

    def back(g: Array) -> Array:
        return (np.exp(log_q) - np.exp(log_p)) * (g * weight / (t * len(log_p)))

    return log_q, log_p, weight, back


def _label_loss(logits: Array, labels: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Mean negative log-likelihood of the labels, and the gradient of the logits."""
    logits, _ = _logits(logits, logits)
    labels = require_codes("labels", labels, 0, logits.shape[1] - 1)
    require_same_shape("labels", labels, logits.shape[:1])
    log_q, rows = _log_softmax(logits), np.arange(len(logits))

    def pullback(g: Array) -> Array:
        d = np.exp(log_q)
        d[rows, labels] -= 1
        return d * (g / len(d))

    return _mean(-log_q[rows, labels]), pullback


def _log_softmax(z: Array) -> Array:
    """Logarithm of the softmax of each row; the largest logit taken out, exp cannot overflow."""
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def _direction(x: Array, power: int) -> tuple[Array, Array]:
    """Attention maps of norm 1 as rows, and 1 over their norms; both 0 where a map is."""
    maps = (np.abs(x) ** power).sum(-1).reshape(len(x), -1)
    norm = np.sqrt((maps * maps).sum(1, keepdims=True))
    inverse = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
    return maps * inverse, inverse


def _mean(each: Array) -> Array:
    """Mean over the batch, summed in float64, in the dtype of the data."""
    return np.asarray(each.mean(dtype=np.float64), each.dtype)


def _weight(name: str, weight: float) -> float:
    """`weight`, if it is a number."""
    require_number(name, weight)
    return float(weight)
