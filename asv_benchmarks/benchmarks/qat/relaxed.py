"""Relaxed choices: time forward and back; error of the mean quantizer against nearest."""

import numpy as np

from benchmarks.common import Benchmark, Quality, need, size, weights
from refquant.qat.relaxed import gumbel, gumbel_softmax, relaxed_quantize

CODES = np.arange(-4, 4)


class Relaxed(Benchmark):
    params = (["refquant", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        n = size(50_000)
        logits = weights("gauss", 8 * n).reshape(n, 8)
        noise = gumbel((n, 8), rng=np.random.default_rng(0)).astype(np.float32)
        g = np.ones((n, 8), np.float32)
        if impl == "refquant":
            def step():
                gumbel_softmax(logits, np.array(0.5, np.float32), noise=noise)[1](g)
        else:
            torch = need("torch")
            torch.set_num_threads(1)
            a, b, c = torch.tensor(logits, requires_grad=True), torch.tensor(noise), torch.tensor(g)

            def step():
                torch.softmax((a + b) / 0.5, -1).backward(c)
        self.step = step

    def time_soft_choice(self, impl):
        self.step()


class RelaxedError(Quality):
    params = (["refquant"], [0.5, 0.1])
    param_names = ("impl", "sigma_in_steps")

    def track_error_over_nearest(self, impl, sigma):
        """Squared error of the mean of the drawn levels over that of nearest rounding."""
        x = weights("gauss", size(20_000), "float64") / 2
        mean, _ = relaxed_quantize(x, np.array([0.5]), np.array([sigma / 2]), codes=CODES,
                                   temperature=1.0, noise=np.zeros((len(x), 8)))
        nearest = 0.5 * np.clip(np.rint(x / 0.5), -4, 3)
        return float(np.mean((mean - x) ** 2) / np.mean((nearest - x) ** 2))

    track_error_over_nearest.unit = "of nearest rounding's squared error"
