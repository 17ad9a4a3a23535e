"""The diffusion model: time to draw digits, and the noise it does not see."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.nn.denoiser import STEPS, diffuse, predict_noise, sample, trained_denoiser
from refquant.nn.small_models import split


class Denoiser(Benchmark):
    params = (["refquant"], [10, 50])
    param_names = ("impl", "steps")

    def setup(self, impl, steps):
        shape = (4 if QUICK else 256, 64)
        self.noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        self.model = trained_denoiser()

    def time_sample(self, impl, steps):
        sample(self.model, self.noise, count=steps)


class DenoiserError(Quality):
    def track_mse_of_the_noise(self):
        """On the 500 digits that it was not trained on."""
        x, rng = split().x_test, np.random.default_rng(0)
        x = 2 * x.reshape(len(x), -1) - 1
        t, noise = rng.integers(0, STEPS, len(x)), rng.standard_normal(x.shape, np.float32)
        error = predict_noise(trained_denoiser(), diffuse(x, t, noise), t) - noise
        return float((error**2).mean())

    track_mse_of_the_noise.unit = "MSE"
