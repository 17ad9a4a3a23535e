"""The loss of a classifier: how surprised the network is by the true label."""

import numpy as np

from refquant._types import Array
from refquant._validate import require_codes
from refquant.nn.network import Pullback

__all__ = ["softmax_cross_entropy"]


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Pullback]:
    r"""Mean negative log-likelihood of the labels, in nats.

    .. math:: L = \frac1n \sum_i \Bigl(\log \sum_k e^{z_{ik}} - z_{i y_i}\Bigr)

    Parameters
    ----------
    logits : ndarray of float, shape (n, classes)
    labels : ndarray of int, shape (n,)
        In ``[0, classes)``.

    Returns
    -------
    value : ndarray, shape ()
        In the dtype of `logits`.
    pullback : callable
        Gradient of `logits`, :math:`(p - \mathrm{onehot}(y)) / n`; None for `labels`.

    Raises
    ------
    ValueError
        If a label is out of range, or there is not one label per row, or no row.

    References
    ----------
    Goodfellow, Bengio and Courville, 2016, "Deep Learning", section 6.2.2.3.

    Examples
    --------
    >>> loss, pullback = softmax_cross_entropy(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(float(loss), 4), pullback(np.array(1.0))[0]
    (0.6931, array([[ 0.5, -0.5]]))
    """
    if logits.ndim != 2 or len(logits) == 0:
        raise ValueError(f"`logits` must have shape (n, classes), n >= 1; got {logits.shape}")
    n, classes = logits.shape
    labels = require_codes("labels", labels, 0, classes - 1)
    if labels.shape != (n,):
        raise ValueError(f"`labels` must have shape ({n},); got {labels.shape}")
    # The largest logit is taken out first: exp of it could overflow.
    shifted = logits - logits.max(1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(1)
    each = np.log(total) - shifted[np.arange(n), labels]

    def pullback(g: Array) -> tuple[Array | None, ...]:
        d = exponentials / total[:, None]
        d[np.arange(n), labels] -= 1
        return d * (g / n), None

    return np.asarray(each.mean(dtype=np.float64), dtype=logits.dtype), pullback
