"""The diffusion model: its schedule, its way there and back, and the weights that ship."""

import json

import numpy as np
import pytest

from refquant.nn import _train_denoiser
from refquant.nn._weights import WEIGHTS
from refquant.nn.denoiser import (
    STEPS,
    denoiser_network,
    diffuse,
    initial_denoiser,
    noise_left,
    predict_noise,
    sample,
    sampling_steps,
    time_features,
    trained_denoiser,
)
from refquant.nn.network import backward, run
from refquant.nn.small_models import split

DATA = split()
IMAGES = 2 * DATA.x_test.reshape(len(DATA.x_test), -1) - 1


def test_the_image_fades_from_whole_to_nothing():
    left = noise_left(np.arange(STEPS))
    assert left[0] > 0.9999
    assert left[-1] == 1e-4
    assert (np.diff(left) <= 0).all()
    with pytest.raises(ValueError, match=r"`t` must lie in \[0, 999\]; got 1000"):
        noise_left(1000)


def test_the_variance_of_image_and_noise_adds_up_to_one():
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 4000, 64))
    for t in (0, 300, 999):
        mixed = diffuse(x, np.full(4000, t), noise)
        assert np.isclose(mixed.var(), 1, rtol=0.01)        # 6 standard errors
        assert mixed.dtype == x.dtype


def test_the_features_of_time_are_points_on_circles_and_all_different():
    f = time_features(np.arange(STEPS), dtype=np.float64)
    assert np.allclose(f[:, :16] ** 2 + f[:, 16:] ** 2, 1)
    assert len(np.unique(f, axis=0)) == STEPS


def test_the_gradient_of_the_network_is_its_derivative():
    rng = np.random.default_rng(0)
    model = initial_denoiser(rng=rng, dtype=np.float64)
    values = {"x": rng.standard_normal((5, 96)), **model.parameters}
    g = rng.standard_normal((5, 64))
    gradients = backward(run(denoiser_network(), values), {"noise": g})
    for name in values:
        d = rng.standard_normal(values[name].shape)
        d *= 1e-6 / np.linalg.norm(d)
        ahead, behind = (run(denoiser_network(), {**values, name: values[name] + s * d})
                         .values["noise"] for s in (1, -1))
        assert np.isclose(((ahead - behind) * g).sum() / 2, (gradients[name] * d).sum(), rtol=1e-4)


@pytest.mark.parametrize("count", [1, 7, 50, 1000])
def test_the_way_back_visits_steps_from_noise_to_image(count):
    steps = sampling_steps(count)
    assert len(steps) == count
    assert steps[-1] == 0
    assert (np.diff(steps) < 0).all()
    assert steps.max() < STEPS


def test_a_network_that_knows_the_noise_leads_back_to_the_image():
    """With the true noise at every step, DDIM returns the image exactly."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, 64))
    clean = IMAGES[:3].astype(np.float64)
    start = diffuse(clean, np.full(3, sampling_steps(20)[0]), noise)
    model = trained_denoiser()

    def tell(name, value):
        return noise if name == "noise" else value

    assert np.allclose(sample(model, start, count=20, tap=tell), clean, atol=1e-12)


def test_the_watcher_sees_every_step_and_the_image_before_it():
    seen = []
    noise = np.random.default_rng(0).standard_normal((2, 64), np.float32)
    sample(trained_denoiser(), noise, count=5, watch=lambda t, x: seen.append((t, x.copy())))
    assert [t for t, _ in seen] == sampling_steps(5).tolist()
    assert np.array_equal(seen[0][1], noise)


def frechet(a, b):
    """Distance of the two Gaussians with the moments of a and b."""
    from scipy.linalg import sqrtm

    ca, cb = (np.cov(x.T) + 1e-6 * np.eye(64) for x in (a, b))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)


def test_the_shipped_denoiser_draws_what_looks_like_digits():
    train = (2 * DATA.x_train.reshape(len(DATA.x_train), -1) - 1).astype(np.float64)
    noise = np.random.default_rng(1).standard_normal((500, 64), np.float32)
    drawn = sample(trained_denoiser(), noise).astype(np.float64)
    assert np.abs(drawn).max() <= 1
    assert frechet(drawn, train) < 1.5          # measured 1.0
    assert frechet(noise.astype(np.float64), train) > 50


def test_the_shipped_denoiser_is_as_good_as_its_manifest_says():
    said = json.loads((WEIGHTS / "denoiser.json").read_text())["mse"]
    rng = np.random.default_rng(5)
    t = rng.integers(0, STEPS, len(IMAGES))
    noise = rng.standard_normal(IMAGES.shape, np.float32)
    error = predict_noise(trained_denoiser(), diffuse(IMAGES, t, noise), t) - noise
    assert abs(float((error**2).mean()) - said) < 0.05


def test_training_learns_and_keeps_float32():
    losses = []
    model = _train_denoiser.fit(IMAGES, rng=np.random.default_rng(0), steps=60,
                                progress=losses.append)
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert all(v.dtype == np.float32 for v in model.parameters.values())
