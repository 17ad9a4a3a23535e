"""What the loop itself costs: many nodes, nearly no work in each."""

from itertools import pairwise

import numpy as np

from benchmarks.common import QUICK, Benchmark
from refquant.nn.network import Node, backward, insert_after, run
from refquant.nn.operations import relu


class Network(Benchmark):
    params = ([100] if QUICK else [100, 1000],)
    param_names = ("nodes",)

    def setup(self, nodes):
        names = ["x", *(f"n{i}" for i in range(nodes))]
        self.nodes = [Node(b, relu, (a,)) for a, b in pairwise(names)]
        self.values = {"x": np.ones(8, np.float32)}
        self.trace = run(self.nodes, self.values)
        self.seed = {names[-1]: np.ones(8, np.float32)}

    def time_run(self, nodes):
        run(self.nodes, self.values)

    def time_run_with_a_tap(self, nodes):
        run(self.nodes, self.values, tap=lambda name, value: value)

    def time_backward(self, nodes):
        backward(self.trace, self.seed)

    def time_insert_after(self, nodes):
        insert_after(self.nodes, "n50", Node("q", relu, ("n50",)))
