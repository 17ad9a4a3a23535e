"""What the same bits cost different tasks: time of a sweep, and the share that is lost."""

from benchmarks.common import Quality
from refquant.apply.simulate import weight_names
from refquant.workflow import _experiment_tasks as experiment
from refquant.workflow import tasks


class Tasks(Quality):
    params = (["digit", "canvas", "place", "letter", "drawing"], [8, 4, 3])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        self.task = experiment.TASKS[impl](0)
        self.fits = {bits: lambda w: experiment.RULES["largest"](w, bits)}

    def sweep(self):
        nodes, values, score, _ = self.task
        return tasks.degradation(values, weight_names(nodes), self.fits, score)

    def time_sweep(self, impl, bits):
        self.sweep()

    def track_lost(self, impl, bits):
        exact = self.task.score(self.task.values)
        left = tasks.kept(self.sweep()[bits], exact, self.task.chance)
        return max(1 - left, 0.0)

    track_lost.unit = "of what was above chance"
