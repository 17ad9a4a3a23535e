"""Layer by layer against the simulation: time, differences, and what no rule explains."""

from benchmarks.apply.lower import digits_program
from benchmarks.common import Quality
from refquant.apply.agreement import agreement
from refquant.integer.requantize import RULES


class Agreement(Quality):
    params = (list(RULES),)
    param_names = ("rule",)

    def setup(self, rule):
        self.program, net, _, images, _ = digits_program(rule)
        self.nodes, self.inputs = net.nodes, {"x": images}

    def rows(self):
        return agreement(self.program, self.nodes, self.inputs)

    def time_agreement(self, rule):
        self.rows()

    def track_differing(self, rule):
        rows = self.rows()
        return 100 * sum(r.differing for r in rows) / sum(r.elements for r in rows)

    def track_unexplained(self, rule):
        return float(sum(r.unexplained for r in self.rows()))

    track_differing.unit = "% of all codes, on the same inputs"
    track_unexplained.unit = "codes"
