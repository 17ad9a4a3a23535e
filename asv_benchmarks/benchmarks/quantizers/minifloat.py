"""Short floating-point formats: what the readable definition costs, and the error it buys."""

import numpy as np

from benchmarks.common import Quality, need, size, weights
from refquant.metrics import mse
from refquant.quantizers.minifloat import FORMATS

PEER_TYPES = {
    "FP16": "float16", "BF16": "bfloat16", "E5M2": "float8_e5m2", "E4M3FN": "float8_e4m3fn"
}  # fmt: skip
GFLOAT = {
    "FP16": "format_info_binary16", "BF16": "format_info_bfloat16",
    "E5M2": "format_info_ocp_e5m2", "E4M3FN": "format_info_ocp_e4m3",
}  # fmt: skip


class Minifloat(Quality):
    """Encode and decode of a million numbers, through the definition."""

    params = (["refquant", "ml_dtypes", "torch", "gfloat"], ["FP16", "BF16", "E4M3FN", "E5M2"])
    param_names = ("impl", "number_format")

    def setup(self, impl, number_format):
        self.x = weights("gauss", size(1_000_000))
        f = FORMATS[number_format]
        if impl == "ml_dtypes":
            peer = getattr(need("ml_dtypes"), PEER_TYPES[number_format], np.float16)
            self.round_trip = lambda: self.x.astype(peer).astype(np.float32)
        elif impl == "torch":
            torch = need("torch")
            torch.set_num_threads(1)
            x, peer = torch.tensor(self.x), getattr(torch, PEER_TYPES[number_format])
            self.round_trip = lambda: x.to(peer).to(torch.float32).numpy()
        elif impl == "gfloat":
            gfloat = need("gfloat")
            info = getattr(need("gfloat.formats"), GFLOAT[number_format])
            self.round_trip = lambda: gfloat.round_ndarray(info, self.x, sat=True)
        else:
            self.round_trip = lambda: f.decode(f.encode(self.x))
        self.round_trip()

    def time_round_trip(self, impl, number_format):
        self.round_trip()

    def peakmem_round_trip(self, impl, number_format):
        self.round_trip()

    def track_relative_mse(self, impl, number_format):
        return mse(self.x, self.round_trip()) / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"
