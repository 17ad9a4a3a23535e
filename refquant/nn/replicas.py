"""Five copies of one network, trained on five splits, so that a figure has a spread.

The architecture is that of `refquant.nn.models.digits_cnn`, and copy s was trained on
the training half of ``digits(seed=s)``, from the seed s. An experiment that starts
from each of them in turn can state a mean and a deviation over networks *and* over
data, and none of the five needs to be trained again for it.
"""

from refquant._validate import require_int
from refquant.nn._weights import WEIGHTS, load_arrays
from refquant.nn.models import Model, digits_cnn, initial_statistics

__all__ = ["REPLICAS", "replica"]

#: How many copies ship: seeds 0 to 4.
REPLICAS = 5


def replica(seed: int) -> Model:
    """The copy that was trained on ``digits(seed=seed).x_train``.

    Parameters
    ----------
    seed : int
        From 0 to 4.

    Returns
    -------
    Model
        27,338 parameters; arrays are read-only, float32. Its accuracy on
        ``digits(seed=seed).x_test`` stands in ``weights/replicas.json``.

    Raises
    ------
    FileNotFoundError
        If the file of weights is not there.
    ValueError
        If it is not the file that was shipped, or there is no such copy.

    Notes
    -----
    40 epochs of Adam, rate 0.01 falling to 0 on a cosine, batches of 64, no
    augmentation; `refquant.nn._train_replicas` is the script.

    References
    ----------
    He et al., 2016, arXiv:1512.03385; Howard et al., 2017, arXiv:1704.04861.

    Examples
    --------
    >>> from refquant.nn.data import digits
    >>> from refquant.nn.models import accuracy
    >>> data = digits(seed=3)
    >>> accuracy(replica(3), data.x_test, data.y_test) > 0.97
    True
    """
    require_int("seed", seed, 0, REPLICAS - 1)
    arrays = load_arrays(WEIGHTS / "replicas.npz", script="refquant.nn._train_replicas")
    own = {n.partition(".")[2]: a for n, a in arrays.items() if n.startswith(f"{seed}.")}
    statistics = initial_statistics()
    return Model(
        digits_cnn(),
        {name: array for name, array in own.items() if name not in statistics},
        {name: own[name] for name in statistics},
    )
