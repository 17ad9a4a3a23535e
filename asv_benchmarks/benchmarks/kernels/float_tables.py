"""FP8 by table: the speed of one byte per number, against ml_dtypes, torch and the definition."""

import numpy as np

from benchmarks.common import Benchmark, need, share_of_time, size, weights
from refquant.kernels.float_tables import decode_bytes, encode_bytes
from refquant.quantizers.minifloat import FORMATS

PEER_TYPES = {"E4M3FN": "float8_e4m3fn", "E5M2": "float8_e5m2"}


class FloatTables(Benchmark):
    """Ten million float32 numbers; "naive" is `Minifloat` itself."""

    params = (["refquant", "naive", "ml_dtypes", "torch"], ["E4M3FN", "E5M2"])
    param_names = ("impl", "number_format")

    def setup(self, impl, number_format):
        x = weights("gauss", size(10_000_000))
        f = FORMATS[number_format]
        codes = encode_bytes(x, f)
        self.ours = lambda: encode_bytes(x, f)
        self.ours_back = lambda: decode_bytes(codes, f)
        if impl == "ml_dtypes":
            peer = getattr(need("ml_dtypes"), PEER_TYPES[number_format])
            short = codes.view(peer)
            self.encode = lambda: x.astype(peer)
            self.decode = lambda: short.astype(np.float32)
        elif impl == "torch":
            torch = need("torch")
            torch.set_num_threads(1)
            peer = getattr(torch, PEER_TYPES[number_format])
            wide = torch.tensor(x)
            narrow = wide.to(peer)
            self.encode = lambda: wide.to(peer)
            self.decode = lambda: narrow.to(torch.float32)
        elif impl == "naive":
            self.encode = lambda: f.encode(x)
            self.decode = lambda: f.decode(codes)
        else:
            self.encode, self.decode = self.ours, self.ours_back

    def time_encode(self, impl, number_format):
        self.encode()

    def time_decode(self, impl, number_format):
        self.decode()

    def peakmem_encode(self, impl, number_format):
        self.encode()

    def track_encode_of_refquant_over_this(self, impl, number_format):
        """Time over that of `impl`, side by side."""
        return share_of_time(self.ours, self.encode)

    track_encode_of_refquant_over_this.unit = "ratio"

    def track_decode_of_refquant_over_this(self, impl, number_format):
        """Time over that of `impl`, side by side."""
        return share_of_time(self.ours_back, self.decode)

    track_decode_of_refquant_over_this.unit = "ratio"
