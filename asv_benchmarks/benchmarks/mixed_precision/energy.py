"""Energy: how far the interpolation is from the published figures."""

from benchmarks.common import Quality
from refquant.mixed_precision.energy import ADD, MULTIPLY, add_energy, multiply_energy


class Energy(Quality):
    params = (["add", "multiply"],)
    param_names = ("impl",)

    def track_error_at_32_bits(self, impl):
        """The law of b or of b squared, fitted at 8 bits and judged at 32."""
        model, table = {"add": (add_energy, ADD), "multiply": (multiply_energy, MULTIPLY)}[impl]
        return 100 * abs(model(32) / table["int32"] - 1)

    track_error_at_32_bits.unit = "% of the published figure"
