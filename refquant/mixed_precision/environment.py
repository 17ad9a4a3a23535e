r"""The game of HAQ: choose bits layer by layer, be cut down to the budget, be paid at the end.

A *policy* gives each slot (the weight of a layer, or the activation that enters it) one of a
few bit-widths. What any search of policies needs to know of a network is here:

==============  ==========================================================================
state           ten numbers per slot, each column scaled to [0, 1] over the slots
action          a number a in [0, 1], :math:`b = \mathrm{round}((b_{max} + 1/2) a
                + (b_{min} - 1/2)(1 - a))`: every width has an equal share of [0, 1]
budget          after the last action, bits are taken away from the last slot to the first,
                one each, round after round, until the cost fits
reward          0.1 per point of accuracy gained over the float network, once, at the end
==============  ==========================================================================

Nothing here runs a network: cost and reward are functions of the policy.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_codes, require_int, require_number, require_same_shape

__all__ = [
    "Cost",
    "Environment",
    "LayerShape",
    "accuracy_reward",
    "action_bits",
    "additive_cost",
    "layer_states",
    "make_environment",
    "within_budget",
]

#: What a policy costs: bits stored, products, seconds; in any unit, that of the budget.
Cost: TypeAlias = Callable[[Codes], float]


class Environment(NamedTuple):
    """Slots to fill with bit-widths, and what they may cost together.

    Attributes
    ----------
    choices : ndarray of int32, shape (choices,)
        The bit-widths to choose from, increasing.
    cost : callable, ndarray of int32, shape (slots,) -> float
    budget : float
        No policy may cost more.
    free : ndarray of bool, shape (slots,)
        The others keep the largest width.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.
    """

    choices: Codes
    cost: Cost
    budget: float
    free: Array

    @property
    def slots(self) -> int:
        """How many bit-widths a policy has."""
        return len(self.free)

    @property
    def words(self) -> str:
        """The environment in a line, for the name of an agent."""
        widths = " ".join(map(str, self.choices))
        return f"{int(self.free.sum())} of {self.slots} slots, {widths} bits, cost {self.budget:g}"


class LayerShape(NamedTuple):
    """What the state tells of a layer.

    Attributes
    ----------
    depthwise : bool
    inputs, outputs : int
        Channels.
    stride : int
        0 for a linear layer.
    kernel : int
        Side of the window; 1 for a linear layer.
    weights : int
        How many.
    pixels : int
        Of one channel of the input.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.1.
    """

    depthwise: bool
    inputs: int
    outputs: int
    stride: int
    kernel: int
    weights: int
    pixels: int


def make_environment(
    choices: Sequence[int] | Codes,
    cost: Cost,
    *,
    slots: int,
    budget: float,
    fixed: Collection[int] = (),
) -> Environment:
    """An environment whose budget can be met.

    Parameters
    ----------
    choices : sequence of int
        Bit-widths, increasing.
    cost : callable, ndarray of int32, shape (slots,) -> float
        Should not fall when a width grows; `additive_cost` makes one of a table.
    slots : int
        Widths in a policy. With activations: weight and activation of the first layer, of the
        second, and so on.
    budget : float
        In the unit of `cost`.
    fixed : collection of int
        Slots that keep the largest width; HAQ fixes those of the first and the last layer.

    Returns
    -------
    Environment

    Raises
    ------
    ValueError
        If the lowest widths cost more than `budget`; the message says how much. If there is no
        slot, or one of `fixed` is not among them.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.2.

    Examples
    --------
    >>> stored = lambda bits: float(bits @ [10, 30])
    >>> make_environment([2, 4, 8], stored, slots=2, budget=160).slots
    2
    >>> make_environment([2, 4, 8], stored, slots=2, budget=60)
    Traceback (most recent call last):
    ValueError: `budget` must be at least 80, the cost of the lowest bits; got 60
    """
    widths = require_codes("choices", list(choices), 1, 32).astype(np.int32)
    if widths.ndim != 1 or (np.diff(widths) <= 0).any():
        raise ValueError(f"`choices` must increase; got {list(choices)}")
    require_number("budget", budget)
    free = np.ones(require_int("slots", slots, 1), bool)
    for slot in fixed:
        free[require_int("fixed", slot, 0, slots - 1)] = False
    made = Environment(widths, cost, float(budget), free)
    least = float(cost(_filled(made, widths[0])))
    if not least <= budget:
        raise ValueError(
            f"`budget` must be at least {least:g}, the cost of the lowest bits; got {budget:g}")
    return made


def additive_cost(choices: Sequence[int] | Codes, costs: Array) -> Cost:
    r"""Cost that is a sum over slots, :math:`\sum_i c_{i, k(b_i)}`, looked up in a table.

    Parameters
    ----------
    choices : sequence of int
        Bit-widths, increasing.
    costs : ndarray, shape (slots, choices)
        Sizes, products or measured times of each slot at each width.

    Returns
    -------
    callable, ndarray of int32, shape (slots,) -> float
        Raises ValueError for a width that is not in the table: it does not interpolate, since
        hardware does not.

    Raises
    ------
    ValueError
        If the table has not one column per choice.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.3 (look-up tables of latency).

    Examples
    --------
    >>> cost = additive_cost([2, 4], np.array([[20, 40], [60, 120]]))
    >>> cost(np.array([4, 2]))
    100.0
    """
    widths, table = np.asarray(choices), np.asarray(costs)
    if table.ndim != 2 or table.shape[1] != len(widths):
        raise ValueError(f"`costs` must have shape (slots, {len(widths)}); got {table.shape}")
    rows = np.arange(len(table))

    def cost(bits: Codes) -> float:
        require_same_shape("bits", bits, (len(table),))
        k = np.minimum(np.searchsorted(widths, bits), len(widths) - 1)
        if (widths[k] != bits).any():
            bad = bits[widths[k] != bits][0]
            raise ValueError(f"`bits` must be among {widths.tolist()}; got {bad}")
        return float(table[rows, k].sum())

    return cost


def layer_states(shapes: Sequence[LayerShape], *, activations: bool = False) -> Array:
    """The states of all slots, each column scaled to [0, 1]; constant columns are left alone.

    Columns: depthwise, inputs, outputs, stride, kernel, weights, pixels, index of the layer,
    width of the action before (1, the largest, until the agent writes it), and with
    `activations` whether the slot is a weight.

    Parameters
    ----------
    shapes : sequence of LayerShape
        In the order of the run.
    activations : bool
        Two slots per layer, weight before activation, instead of one.

    Returns
    -------
    ndarray of float64, shape (slots, 9 or 10)

    Notes
    -----
    The released code writes the last column one action late, so that 1 means "activation"
    from the second action on; here 1 always means "weight".

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.1; mit-han-lab/haq, ``linear_quantize_env.py``.

    Examples
    --------
    >>> shapes = [LayerShape(False, 1, 16, 1, 3, 144, 64), LayerShape(False, 64, 10, 0, 1, 640, 1)]
    >>> layer_states(shapes).astype(int)
    array([[0, 0, 1, 1, 1, 0, 1, 0, 1],
           [0, 1, 0, 0, 0, 1, 0, 1, 1]])
    """
    states = np.array([[*shape, i, 1.0] for i, shape in enumerate(shapes)], np.float64)
    if activations:
        states = np.column_stack([states.repeat(2, 0), np.tile([1.0, 0.0], len(states))])
    low, high = states.min(0), states.max(0)
    varied = high > low
    states[:, varied] = (states[:, varied] - low[varied]) / (high - low)[varied]
    return states


def action_bits(actions: Array, choices: Codes) -> Codes:
    r"""Bit-width of each action: [0, 1] cut into equal parts, one per choice.

    .. math:: b = \mathrm{round}\bigl((b_{max} - b_{min} + 1)\, a + b_{min} - 1/2\bigr)

    Parameters
    ----------
    actions : ndarray of float, any shape
        In [0, 1].
    choices : ndarray of int32, shape (choices,)

    Returns
    -------
    ndarray of int32, shape of `actions`

    Notes
    -----
    The formula is for widths without gaps; with gaps it counts choices instead of bits. At 0
    and at 1 it lands on a tie, whence the clip.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.2.

    Examples
    --------
    >>> action_bits(np.array([0.0, 0.1, 0.5, 1.0]), np.arange(2, 9))
    array([2, 2, 5, 8], dtype=int32)
    """
    last = len(choices) - 1
    k = np.clip(np.rint((last + 1) * np.asarray(actions) - 0.5), 0, last).astype(np.intp)
    return np.asarray(choices, np.int32)[k]


def within_budget(bits: Codes, environment: Environment) -> Codes:
    """The policy, with as many bits taken away as the budget demands.

    Fixed slots get the largest width. Then, round after round and from the last slot to the
    first, each free slot that has a lower width takes the next lower one, and it ends as soon
    as the cost fits.

    Parameters
    ----------
    bits : ndarray of int32, shape (slots,)
        Each one of the choices.
    environment : Environment

    Returns
    -------
    ndarray of int32, shape (slots,)
        Costs at most the budget; equal to `bits` if that did.

    Raises
    ------
    ValueError
        If a width is not a choice, or even the lowest cost more than the budget.

    Notes
    -----
    The paper decreases "sequentially"; that it is from the end is the released code. If the
    lowest widths cost too much, that code stops over budget, or never.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.2; mit-han-lab/haq, ``_final_action_wall``.

    Examples
    --------
    >>> stored = lambda bits: float(bits @ [10, 30])
    >>> env = make_environment([2, 4, 8], stored, slots=2, budget=160)
    >>> within_budget(np.array([8, 8]), env)
    array([4, 4], dtype=int32)
    """
    require_same_shape("bits", bits, (environment.slots,))
    choices, free = environment.choices, environment.free
    k = np.where(free, np.searchsorted(choices, bits), len(choices) - 1)
    if (k == len(choices)).any() or (choices[k] != bits)[free].any():
        raise ValueError(f"`bits` must be among {choices.tolist()}; got {list(map(int, bits))}")
    while environment.cost(choices[k]) > environment.budget:
        lowered = False
        for slot in range(len(k) - 1, -1, -1):
            if free[slot] and k[slot] > 0:
                k[slot] -= 1
                lowered = True
                if environment.cost(choices[k]) <= environment.budget:
                    break
        if not lowered:
            least = environment.cost(choices[k])
            raise ValueError(f"`budget` must be at least {least:g}, the cost of the lowest bits; "
                             f"got {environment.budget:g}")
    return choices[k]


def accuracy_reward(accuracy: float, reference: float, *, factor: float = 0.1) -> float:
    r"""Reward of a finished policy, :math:`R = \lambda (acc - acc_{float})`, in percent.

    Parameters
    ----------
    accuracy, reference : float
        Of the quantized and of the float network, in [0, 1].
    factor : float
        :math:`\lambda`, per point of accuracy.

    Returns
    -------
    float
        0 as soon as nothing is lost: then it ranks no policies any more, and a loss should
        take its place.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.5.

    Examples
    --------
    >>> round(accuracy_reward(0.95, 0.98), 3)
    -0.3
    """
    return factor * 100 * (accuracy - reference)


def _filled(environment: Environment, width: int) -> Codes:
    """The policy with one width in all free slots."""
    return np.where(environment.free, width, environment.choices[-1]).astype(np.int32)
