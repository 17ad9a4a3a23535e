"""Which layer is to blame: time of a report, and of the proof by leaving out each layer."""


from benchmarks.common import Benchmark
from refquant.apply import debug
from refquant.apply.calibrate import observe, plan
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import input_names, weight_names
from refquant.calibration.minmax import absmax
from refquant.calibration.statistics import Range
from refquant.metrics import sqnr
from refquant.nn.network import run
from refquant.nn.small_models import SEPARABLE, split, trained
from refquant.quantizers.uniform import asymmetric, symmetric


class Debug(Benchmark):
    def setup(self):
        model, x = trained(SEPARABLE, seed=0), split().x_test[:100]
        self.nodes, self.values = fold_batch_norms(model.nodes, model.values)
        self.inputs = {"x": x}
        seen = observe(self.nodes, self.values, [self.inputs], Range.of,
                       names=input_names(self.nodes))
        self.plan = plan(seen, lambda r: asymmetric(r.low, r.high, bits=8)) | {
            n: symmetric(absmax(self.values[n]), bits=8) for n in weight_names(self.nodes)}
        self.layers = debug.layers_of(self.nodes, self.plan)
        self.exact = self.logits(lambda name, value: value)

    def logits(self, tap):
        return run(self.nodes, {**self.inputs, **self.values}, tap=tap).values["logits"]

    def time_local_errors(self):
        debug.local_errors(self.nodes, self.values, self.inputs, self.plan)

    def time_all_but_one(self):
        debug.all_but_one(self.plan, self.layers,
                          lambda tap: sqnr(self.exact, self.logits(tap)))
