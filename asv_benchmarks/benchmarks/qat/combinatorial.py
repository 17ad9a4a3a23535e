"""Search for the rounding of one neuron: cost over the best of all, and time."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.qat.combinatorial import anneal, descend, exhaustive, one_by_one, rounding_qubo

N, PROBLEMS = (6, 2) if QUICK else (12, 20)
BITS = np.array([0.0, 1.0])


def problem(seed):
    """Correlated inputs, steps that leave about three bits; and nearest rounding."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, N)) @ (rng.standard_normal((N, N)) / 2 + np.eye(N))
    w = rng.standard_normal(N)
    return rounding_qubo(w, np.array(0.5), x.T @ x / len(x)), (w / 0.5 % 1 >= 0.5).astype(float)


SEARCH = {
    "nearest": lambda q, nearest: q(nearest),
    "one by one": lambda q, nearest: one_by_one(q).cost,
    "descent": lambda q, nearest: descend(q, nearest, levels=BITS).cost,
    "annealing": lambda q, nearest: anneal(
        q, nearest, levels=BITS, steps=300, hot=1.0, cold=0.01, rng=np.random.default_rng(0)).cost,
}


class Combinatorial(Benchmark):
    params = (["refquant"], ["one by one", "descent"])
    param_names = ("impl", "search")

    def setup(self, impl, search):
        self.problem = problem(0)

    def time_search(self, impl, search):
        SEARCH[search](*self.problem)


class CombinatorialCost(Quality):
    params = (["refquant"], list(SEARCH))
    param_names = ("impl", "search")

    def track_cost_over_best(self, impl, search):
        """Geometric mean over problems of the output error, over the least of all 2**n."""
        logs = []
        for seed in range(PROBLEMS):
            qubo, nearest = problem(seed)
            least = exhaustive(qubo, N, levels=BITS).cost
            logs.append(np.log(SEARCH[search](qubo, nearest) / least))
        return float(np.exp(np.mean(logs)))

    track_cost_over_best.unit = "of the least output error"
