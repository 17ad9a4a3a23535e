"""GPTQ by blocks in float64, against algorithm 1 of the paper in torch and float32, on one CPU."""

import numpy as np

from benchmarks.common import QUICK, Quality, need, share_of_time
from benchmarks.ptq._problems import layer
from refquant.calibration.statistics import Range
from refquant.kernels import column_rounding
from refquant.ptq._curvature import damped
from refquant.ptq.gptq import column_by_column, gptq
from refquant.quantizers.uniform import asymmetric

BLOCK = 128                     # the paper's, section 3.3
BITS = 4


def fit(weight):
    """Min-max per row, zero in the range."""
    r = Range.of(weight, axis=1)
    return asymmetric(np.minimum(r.low, 0), np.maximum(r.high, 0), bits=BITS)


def published(torch, weight, hessian, group_size):
    """Frantar et al., 2023, arXiv:2210.17323, algorithm 1 and the grid of section 4: the weights.

    The inverse by `cholesky_inverse`, its factor by a second Cholesky, columns in blocks; a
    group is fitted to the columns that have been repaired for everything before its block.
    """
    w, h = weight.clone(), hessian.clone()
    h.diagonal().add_(0.01 * h.diagonal().mean())
    u = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    n, q = w.shape[1], torch.empty_like(w)
    top, none = 2**BITS - 1, torch.zeros(len(w))
    for start in range(0, n, BLOCK):
        end = min(start + BLOCK, n)
        part, errors = w[:, start:end].clone(), torch.empty(len(w), end - start)
        block = u[start:end, start:end]
        for j in range(end - start):
            if (start + j) % group_size == 0:
                columns = w[:, start + j : start + j + group_size]
                low = torch.minimum(columns.amin(1), none)
                scale = (torch.maximum(columns.amax(1), none) - low) / top
                zero = torch.round(-low / scale)
            column = part[:, j]
            codes = torch.clamp(torch.round(column / scale) + zero, 0, top)
            q[:, start + j] = scale * (codes - zero)
            error = (column - q[:, start + j]) / block[j, j]
            part[:, j:] -= error[:, None] @ block[j, None, j:]
            errors[:, j] = error
        w[:, end:] -= errors @ u[start:end, end:]
    return q


class _Rounding(Quality):
    params = (["by blocks", "column by column"], [32] if QUICK else [256, 1024, 2048],
              ["rows", "groups of 128"])
    param_names = ("impl", "width", "scales")

    def setup(self, impl, width, scales):
        if impl != "by blocks" and width > 1024:
            raise NotImplementedError("minutes")
        self.weight, _, self.hessian = layer(width, "float32")
        self.group_size = min(128, width) if scales != "rows" else width
        self.run = gptq if impl == "by blocks" else column_by_column

    def round(self):
        return self.run(self.weight, self.hessian, fit,
                        group_size=self.group_size)


class ColumnRounding(_Rounding):
    def time_round(self, impl, width, scales):
        self.round()

    def time_known_grids(self, impl, width, scales):
        weight, hessian = damped(self.weight, self.hessian, 0.01)
        column_rounding.round_columns(weight, hessian, [fit(weight)], np.zeros(width, int))


class AgainstThePublishedAlgorithm(_Rounding):
    """Algorithm 1 of the paper in torch and float32, beside ours in float64; the same weights."""

    def setup(self, impl, width, scales):
        torch = need("torch")
        torch.set_num_threads(1)
        super().setup(impl, width, scales)
        weight, hessian = torch.tensor(self.weight), torch.tensor(self.hessian)
        self.peer = lambda: published(torch, weight, hessian, self.group_size)

    def track_share_of_torch(self, impl, width, scales):
        return share_of_time(self.round, self.peer)

    track_share_of_torch.unit = "of the time of the published algorithm in torch"

    def track_other_weights(self, impl, width, scales):
        theirs, ours = self.peer().numpy(), self.round()
        steps = np.concatenate([np.broadcast_to(q.scale, (width, self.group_size))
                                for q in ours.quantizers], axis=1)
        return float((np.abs(theirs - ours.weight) > steps / 2).mean())

    track_other_weights.unit = "of the weights differ from the published algorithm's"
