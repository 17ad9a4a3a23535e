r"""A small diffusion model of digits: a network that removes noise, and the way back from noise.

An image :math:`x_0` is mixed with noise in :math:`T = 1000` steps,

.. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon,

and the network learns to say :math:`\epsilon` from :math:`x_t` and t: four linear layers, of
256 units with ReLU between. Run backwards from pure noise it draws digits. A run uses the same
weights fifty times on inputs that change all the way, from noise to image, which is what
makes one range for all of them a poor choice.

Images are rows of 64 pixels in [-1, 1]; t enters as 32 sines and cosines.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import require_codes, require_int
from refquant.nn._weights import WEIGHTS, load_arrays
from refquant.nn.models import Model
from refquant.nn.network import Node, Tap, run, untouched
from refquant.nn.operations import linear, relu

__all__ = [
    "STEPS",
    "Watch",
    "ddim",
    "denoiser_network",
    "diffuse",
    "initial_denoiser",
    "noise_left",
    "predict_noise",
    "sample",
    "sampling_steps",
    "time_features",
    "trained_denoiser",
]

#: Steps from an image to noise.
STEPS = 1000

#: Called with t and x_t before each step of a run backwards.
Watch: TypeAlias = Callable[[int, Array], None]

_PIXELS, _TIME, _HIDDEN = 64, 32, 256


def noise_left(t: Array | int) -> Array:
    r"""Share of the image's variance that is left after t steps, :math:`\bar\alpha_t`.

    .. math:: \bar\alpha_t = \frac{f(t + 1)}{f(0)}, \qquad
              f(t) = \cos^2\Big(\frac{t / T + 0.008}{1.008}\,\frac{\pi}{2}\Big)

    Parameters
    ----------
    t : int or ndarray of int
        From 0 (one step of noise) to 999.

    Returns
    -------
    ndarray of float64
        At least 0.0001, so that the way back never divides by nearly nothing.

    Raises
    ------
    ValueError
        If `t` is out of range.

    References
    ----------
    Nichol and Dhariwal, 2021, arXiv:2102.09672, eq. (17).

    Examples
    --------
    >>> noise_left(np.array([0, 499, 999])).round(5)
    array([9.9996e-01, 4.9384e-01, 1.0000e-04])
    """
    t = require_codes("t", t, 0, STEPS - 1)
    angles = ((np.arange(STEPS + 1) / STEPS + 0.008) / 1.008) * np.pi / 2
    return np.asarray(np.maximum((np.cos(angles) ** 2 / np.cos(angles[0]) ** 2)[t + 1], 1e-4))


def diffuse(x: Array, t: Array, noise: Array) -> Array:
    r"""Images after t steps of noise, in one go.

    .. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon

    Parameters
    ----------
    x, noise : ndarray of float, shape (n, 64)
        :math:`x_0` and :math:`\epsilon`.
    t : ndarray of int, shape (n,)

    Returns
    -------
    ndarray, shape and dtype of `x`

    References
    ----------
    Ho et al., 2020, arXiv:2006.11239, eq. (4).

    Examples
    --------
    >>> diffuse(np.ones((1, 64)), np.array([0]), np.zeros((1, 64)))[0, 0].round(5)
    np.float64(0.99998)
    """
    left = noise_left(t)[:, None]
    return (np.sqrt(left) * x + np.sqrt(1 - left) * noise).astype(x.dtype)


def time_features(t: Array, *, dtype: type[np.floating] = np.float32) -> Array:
    r"""Sines and cosines of t at 16 frequencies from 1 down to 1/10000.

    Parameters
    ----------
    t : ndarray of int, shape (n,)
    dtype : numpy.float32 or numpy.float64

    Returns
    -------
    ndarray, shape (n, 32)

    References
    ----------
    Vaswani et al., 2017, arXiv:1706.03762, section 3.5.

    Examples
    --------
    >>> time_features(np.array([0]))[0, [0, 16]]
    array([0., 1.], dtype=float32)
    """
    frequencies = 10000.0 ** (-np.arange(_TIME // 2) / (_TIME // 2 - 1))
    angles = np.asarray(t)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(dtype)


def denoiser_network() -> list[Node]:
    """The nodes of the network, from ``x`` (pixels and time, 96 wide) to ``noise``.

    Returns
    -------
    list of Node

    References
    ----------
    Ho et al., 2020, arXiv:2006.11239, eq. (14), with a perceptron for the U-Net.

    Examples
    --------
    >>> [node.name for node in denoiser_network()][-1]
    'noise'
    """
    nodes, source = [], "x"
    for i in range(1, 4):
        nodes.append(Node(f"fc{i}.sum", linear, (source, f"fc{i}.weight", f"fc{i}.bias")))
        nodes.append(Node(f"fc{i}", relu, (f"fc{i}.sum",)))
        source = f"fc{i}"
    return [*nodes, Node("noise", linear, (source, "fc4.weight", "fc4.bias"))]


def initial_denoiser(
    *, rng: np.random.Generator, dtype: type[np.floating] = np.float32
) -> Model:
    """The network before training.

    Parameters
    ----------
    rng : numpy.random.Generator
        Standard normal draws, one per weight, layer after layer.
    dtype : numpy.float32 or numpy.float64

    Returns
    -------
    Model
        Weights N(0, 2 / fan-in), biases 0; no statistics.

    References
    ----------
    He et al., 2015, arXiv:1502.01852, eq. (10).

    Examples
    --------
    >>> model = initial_denoiser(rng=np.random.default_rng(0))
    >>> sum(v.size for v in model.parameters.values())
    172864
    """
    widths = [_PIXELS + _TIME, _HIDDEN, _HIDDEN, _HIDDEN, _PIXELS]
    parameters: dict[str, Array] = {}
    for i in range(4):
        weight = rng.standard_normal((widths[i + 1], widths[i])) * (2 / widths[i]) ** 0.5
        parameters[f"fc{i + 1}.weight"] = weight.astype(dtype)
        parameters[f"fc{i + 1}.bias"] = np.zeros(widths[i + 1], dtype)
    return Model(denoiser_network(), parameters, {})


def trained_denoiser() -> Model:
    """The denoiser that ships with the package, trained on the 1,297 digits of `split`.

    Returns
    -------
    Model
        Arrays are read-only, float32.

    Raises
    ------
    FileNotFoundError
        If the file of weights is not there.
    ValueError
        If it is not the file that was shipped.

    References
    ----------
    Ho et al., 2020, arXiv:2006.11239; `refquant.nn._train_denoiser` is the script.

    Examples
    --------
    >>> trained_denoiser().parameters["fc4.weight"].shape
    (64, 256)
    """
    arrays = load_arrays(WEIGHTS / "denoiser.npz", script="refquant.nn._train_denoiser")
    return Model(denoiser_network(), dict(arrays), {})


def predict_noise(model: Model, x: Array, t: Array | int, *, tap: Tap = untouched) -> Array:
    r"""Noise that the network sees in images, :math:`\epsilon_\theta(x_t, t)`.

    Parameters
    ----------
    model : Model
    x : ndarray of float, shape (n, 64)
    t : int or ndarray of int, shape (n,)
    tap : callable, (name, value) -> value
        As in `refquant.nn.network.run`.

    Returns
    -------
    ndarray, shape (n, 64)

    References
    ----------
    Ho et al., 2020, arXiv:2006.11239, eq. (14).

    Examples
    --------
    >>> predict_noise(trained_denoiser(), np.zeros((2, 64), np.float32), 10).shape
    (2, 64)
    """
    time = time_features(np.broadcast_to(t, len(x)), dtype=x.dtype.type)
    inputs = np.concatenate([x, time], axis=1)
    return run(model.nodes, {"x": inputs, **model.parameters}, tap=tap).values["noise"]


def sampling_steps(count: int) -> Array:
    """The steps that a short run backwards visits: evenly spread, from noise to image.

    Parameters
    ----------
    count : int
        At most 1000.

    Returns
    -------
    ndarray of int64, shape (count,)
        Descending, the last one 0.

    References
    ----------
    Song et al., 2021, arXiv:2010.02502, section 4.2.

    Examples
    --------
    >>> sampling_steps(5)
    array([800, 600, 400, 200,   0])
    """
    require_int("count", count, 1, STEPS)
    return (np.arange(count) * STEPS // count)[::-1].copy()


def sample(
    model: Model, noise: Array, *, count: int = 50, tap: Tap = untouched,
    watch: Watch = lambda t, x: None,
) -> Array:
    r"""Images drawn from noise, without further chance (DDIM).

    .. math:: \hat x_0 = \mathrm{clip}\Big(
                  \frac{x_t - \sqrt{1 - \bar\alpha_t}\,\epsilon_\theta}
                       {\sqrt{\bar\alpha_t}},\ -1,\ 1\Big), \qquad
              x_{t'} = \sqrt{\bar\alpha_{t'}}\,\hat x_0
                       + \sqrt{1 - \bar\alpha_{t'}}\,\epsilon

    with :math:`\epsilon` the noise that :math:`x_t` and the clipped :math:`\hat x_0` imply.

    Parameters
    ----------
    model : Model
    noise : ndarray of float, shape (n, 64)
        Standard normal: the start, and the only chance in it.
    count : int
        Steps of the way back.
    tap : callable, (name, value) -> value
        As in `refquant.nn.network.run`.
    watch : callable, (t, x_t) -> None
        Hears of the image before each step: to calibrate, to compare.

    Returns
    -------
    ndarray, shape (n, 64)
        :math:`\hat x_0` of the last step.

    References
    ----------
    Song et al., 2021, arXiv:2010.02502, eq. (12) with :math:`\sigma_t = 0`; the clip is
    that of Ho et al., 2020, arXiv:2006.11239 (authors' code).

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal((2, 64), np.float32)
    >>> sample(trained_denoiser(), noise, count=10).shape
    (2, 64)
    """
    return ddim(lambda x, t: predict_noise(model, x, t, tap=tap), noise, count=count, bound=1,
                watch=watch)


def ddim(
    predict: Callable[[Array, int], Array], noise: Array, *, count: int = 50,
    bound: float = math.inf, watch: Watch = lambda t, x: None,
    store: Callable[[Array], Array] = lambda x: x,
) -> Array:
    r"""Way back from noise along any predictor of the noise, without further chance.

    .. math:: \hat x_0 = \mathrm{clip}\Big(
                  \frac{x_t - \sqrt{1 - \bar\alpha_t}\,\epsilon(x_t, t)}
                       {\sqrt{\bar\alpha_t}},\ -B,\ B\Big), \qquad
              x_{t'} = \sqrt{\bar\alpha_{t'}}\,\hat x_0
                       + \sqrt{1 - \bar\alpha_{t'}}\,\hat\epsilon

    with :math:`\hat\epsilon` the noise that :math:`x_t` and the clipped :math:`\hat x_0` imply.
    Without the clip it is Euler's method for an ordinary differential equation, in a time of
    its own.

    Parameters
    ----------
    predict : callable, (x_t, t) -> noise
        The :math:`\epsilon` of the equation.
    noise : ndarray of float, shape (n, d)
        Standard normal: the start.
    count : int
        Steps of the way back.
    bound : float
        The B of the equation; without it nothing is clipped.
    watch : callable, (t, x_t) -> None
        Hears of the value before each step.
    store : callable, x_t -> x_t
        What is kept of a value between two steps.

    Returns
    -------
    ndarray, shape (n, d)
        :math:`\hat x_0` of the last step.

    References
    ----------
    Song et al., 2021, arXiv:2010.02502, eqs. (12) to (14).

    Examples
    --------
    >>> ddim(lambda x, t: 0 * x, np.array([[0.5]]), count=2).round(3)      # x over the root of 0.49
    array([[0.713]])
    """
    x, steps = noise, sampling_steps(count)
    for i, t in enumerate(steps.tolist()):
        watch(t, x)
        x = store(x)
        left = float(noise_left(t))
        clean = (x - (1 - left) ** 0.5 * predict(x, t)) / left**0.5
        clean = np.clip(clean, -bound, bound)
        epsilon = (x - left**0.5 * clean) / (1 - left) ** 0.5
        after = float(noise_left(int(steps[i + 1]))) if i + 1 < count else 1.0
        x = after**0.5 * clean + (1 - after) ** 0.5 * epsilon
    return x
