"""Masks by magnitude: time beside torch's, and the output error that a mask leaves."""

import numpy as np

from benchmarks.common import QUICK, Quality, need
from benchmarks.ptq._problems import SIZE, layer
from refquant.calibration.second_moment import output_error
from refquant.compression import pruning

SPARSITY = 0.5


def by_torch(weight):
    torch = need("torch")
    prune = need("torch.nn.utils.prune")
    parameter = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    parameter.weight.data = torch.from_numpy(weight.copy())
    return prune.l1_unstructured(parameter, "weight", SPARSITY).weight_mask.numpy() > 0


def by_magnitude(weight, hessian):
    return pruning.keep_largest(np.abs(weight), SPARSITY)


def by_surgeon(weight, hessian):
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    return pruning.keep_largest(pruning.surgeon_scores(weight, damped), SPARSITY)


def two_of_four(weight, hessian):
    return pruning.keep_n_of_m(np.abs(weight), 2, 4)


MASKS = {"magnitude": by_magnitude, "surgeon": by_surgeon, "2:4": two_of_four,
         "torch": lambda weight, hessian: by_torch(weight)}


class Pruning(Quality):
    params = (["magnitude", "surgeon", "2:4", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.weight, _, self.hessian = layer(SIZE if QUICK else 1024)
        self.mask = MASKS[impl]
        self.mask(self.weight, self.hessian)

    def time_mask(self, impl):
        self.mask(self.weight, self.hessian)

    def track_error(self, impl):
        mask = self.mask(self.weight, self.hessian)
        return float(output_error(self.weight * ~mask, self.hessian)
                     / output_error(self.weight, self.hessian))

    track_error.unit = "of the output's energy lost at half the weights"
