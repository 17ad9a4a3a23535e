"""Strategies: how many examples until each classic mistake is found; drawing itself."""

import numpy as np

from refquant.testing.properties import assert_dialect

from ..common import Quality, need


def reciprocal(x, scale, zero_point, qmin, qmax):
    with np.errstate(all="ignore"):
        q = np.rint(x * (np.float32(1) / np.float32(scale))) + np.float32(zero_point)
        return np.where(np.isnan(q), 0, np.clip(q, qmin, qmax))


class Strategies(Quality):
    """First example on which a reciprocal is told from a quotient; 1000 if none is."""

    params = (["affine_inputs", "floats"],)
    param_names = ("strategy",)

    def setup(self, strategy: str) -> None:
        self.hypothesis = need("hypothesis")
        from refquant.testing import strategies

        self.strategies = strategies

    def track_examples_until_found(self, strategy: str) -> float:
        hypothesis, st = self.hypothesis, self.hypothesis.strategies
        drawn = self.strategies.affine_inputs(["int8"], subnormal=False)
        if strategy == "floats":
            plain = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=33)
            drawn = st.builds(lambda p, x: p._replace(x=np.array(x, np.float32)), drawn, plain)
        seen = 0

        @hypothesis.settings(max_examples=100, database=None, derandomize=True, deadline=None,
                             phases=[hypothesis.Phase.generate],
                             suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(drawn)
        def follows(given_):
            nonlocal seen
            seen += 1
            assert_dialect(reciprocal, given_, dialect="onnx")

        try:
            follows()
        except AssertionError:
            return float(seen)
        return 1000.0

    track_examples_until_found.unit = "examples"
