"""The second moment of layer inputs, against the same product by torch."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality, need, share_of_time
from refquant.calibration import second_moment


class SecondMoment(Benchmark):
    params = ([64] if QUICK else [256, 1024],)
    param_names = ("inputs",)

    def setup(self, inputs):
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((256 if QUICK else 4096, inputs)).astype(np.float32)
        self.difference = rng.standard_normal((inputs, inputs)) / 100

    def time_second_moment(self, inputs):
        second_moment.SecondMoment.of(self.x)

    def time_output_error(self, inputs):
        second_moment.output_error(self.difference, np.eye(inputs))

    def track_error(self, inputs):
        """Of the identity that the mean squared output error is a trace: zero but for rounding."""
        exact = np.square(self.x.astype(float) @ self.difference.T).mean()
        moment = second_moment.SecondMoment.of(self.x)
        return abs(second_moment.output_error(self.difference, moment.hessian) / exact - 1)

    track_error.unit = "relative"


class SecondMomentPeer(Quality):
    params = ([64] if QUICK else [256, 1024],)
    param_names = ("inputs",)

    def setup(self, inputs):
        torch = need("torch")
        torch.set_num_threads(1)
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((256 if QUICK else 4096, inputs)).astype(np.float32)
        x = torch.from_numpy(self.x)

        def theirs():
            rows = x.double()
            return rows.T @ rows

        self.theirs = theirs

    def track_share_of_torch(self, inputs):
        return share_of_time(lambda: second_moment.SecondMoment.of(self.x), self.theirs)

    track_share_of_torch.unit = "of the time of torch"
