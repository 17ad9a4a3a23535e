"""Choosing and joining the timesteps of a sampler: bookkeeping beside the run itself."""

import numpy as np

from benchmarks.common import Benchmark
from refquant.calibration.statistics import Range
from refquant.calibration.timesteps import drawn, joined, range_of_parts, with_neighbours
from refquant.nn.denoiser import sampling_steps


class Timesteps(Benchmark):
    params = ([50, 1000],)
    param_names = ("steps",)

    def setup(self, steps):
        self.steps, rng = sampling_steps(steps), np.random.default_rng(0)
        self.x = rng.standard_normal((256, 96)).astype(np.float32)
        self.by_step = {
            int(t): Range.of(x) for t, x in zip(self.steps, rng.random((steps, 10)), strict=True)
        }

    def time_join_all(self, steps):
        joined(self.by_step, self.steps.tolist())

    def time_with_neighbours(self, steps):
        with_neighbours(self.by_step, 2)

    def time_draw(self, steps):
        drawn(self.steps, 256, rng=np.random.default_rng(0))

    def time_range_of_parts(self, steps):
        range_of_parts(self.x, [64, 32])
