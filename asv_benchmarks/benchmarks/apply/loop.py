"""Quantizers for each step of a sampler: the time they add, and the error they save."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.apply.calibrate import plan
from refquant.apply.loop import observe_steps, per_step
from refquant.apply.simulate import input_names
from refquant.calibration.statistics import Range
from refquant.calibration.timesteps import evenly, joined, range_of_parts
from refquant.nn.denoiser import sample, sampling_steps, trained_denoiser
from refquant.quantizers.uniform import asymmetric

IMAGES, COUNT = (8, 10) if QUICK else (256, 50)


class _Steps:
    """The denoiser, noise to calibrate on and to judge by, and plans of both kinds."""

    def __init__(self):
        rng, self.model = np.random.default_rng(0), trained_denoiser()
        self.shown, self.noise = rng.standard_normal((2, IMAGES, 64)).astype(np.float32)
        self.ranges = self.observe(Range.of, input_names(self.model.nodes))
        self.ranges |= self.observe(partial(range_of_parts, sizes=[64, 32]), ["x"])

    def observe(self, of, names):
        run = partial(sample, self.model, self.shown, count=COUNT)
        return observe_steps(lambda tap, watch: run(tap=tap, watch=watch), of, names=names)

    def plans(self, kind, bits):
        steps = sampling_steps(COUNT)

        def make(seen):
            return plan(seen, lambda r: asymmetric(r.low, r.high, bits=bits))

        if kind == "each":
            return {int(t): make({n: r[int(t)] for n, r in self.ranges.items()}) for t in steps}
        some = steps[-COUNT // 10 :] if kind == "last" else evenly(steps, COUNT // 5)
        return dict.fromkeys(steps.tolist(),
                             make({n: joined(r, some) for n, r in self.ranges.items()}))

    def draw(self, plans):
        looped = per_step(plans)
        return sample(self.model, self.noise, count=COUNT, tap=looped.tap, watch=looped.watch)

    def error(self, kind, bits):
        images = sample(self.model, self.noise, count=COUNT)
        return float(np.square(self.draw(self.plans(kind, bits)) - images).mean())


class Loop(Benchmark):
    params = (["float", "one plan", "a plan for each step"],)
    param_names = ("quantized",)

    def setup(self, quantized):
        self.at = _Steps()
        self.plans = {
            "float": {t: {} for t in sampling_steps(COUNT).tolist()},
            "one plan": self.at.plans("spread", 4),
            "a plan for each step": self.at.plans("each", 4),
        }[quantized]

    def time_draw(self, quantized):
        self.at.draw(self.plans)

    def time_observe(self, quantized):
        self.at.observe(Range.of, ["fc1"])


class LoopError(Quality):
    params = (["last", "spread", "each"], [4, 5, 8])
    param_names = ("ranges", "bits")

    def track_squared_error_of_the_images(self, ranges, bits):
        """Against those of the float network, from the same noise; pixels lie in [-1, 1]."""
        return _Steps().error(ranges, bits)

    track_squared_error_of_the_images.unit = "MSE"
